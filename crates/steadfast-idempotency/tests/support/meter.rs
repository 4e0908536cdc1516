use std::{collections::BTreeMap, sync::Mutex};

use metrics::LocalRecorderGuard;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// What the layers whose first keyed request comes on this thread, while it lives, count.
pub(crate) struct Meter {
    snapshotter: Snapshotter,
    totals: Mutex<Totals>,
    _guard: LocalRecorderGuard<'static>,
}

#[derive(Default)]
struct Totals {
    numbers: BTreeMap<String, f64>,
    records: BTreeMap<String, Vec<f64>>,
}

impl Meter {
    pub(crate) fn start() -> Self {
        let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
        Self {
            snapshotter: recorder.snapshotter(),
            totals: Mutex::default(),
            _guard: metrics::set_default_local_recorder(recorder),
        }
    }

    /// A counter or a gauge of the layer, by its name without prefix and, in braces, its labels but the name space. Zero if it was
    /// never touched.
    pub(crate) fn number(&self, name: &str) -> f64 {
        let totals = self.read();
        totals.numbers.get(name).copied().unwrap_or(0.0)
    }

    /// The counters of this name that are not zero, by the value of their label.
    pub(crate) fn counted(&self, name: &str) -> BTreeMap<String, f64> {
        let totals = self.read();
        let counted = totals.numbers.iter().filter(|(_, number)| **number != 0.0);
        counted
            .filter_map(|(key, number)| {
                let label = key.strip_prefix(name)?.strip_prefix('{')?;
                let (_, value) = label.strip_suffix('}')?.split_once('=')?;
                Some((value.to_owned(), *number))
            })
            .collect()
    }

    /// How keyed requests ended, and how many each.
    pub(crate) fn outcomes(&self) -> BTreeMap<String, f64> {
        self.counted("requests_total")
    }

    /// What a histogram of the layer was given.
    pub(crate) fn records(&self, name: &str) -> Vec<f64> {
        let totals = self.read();
        totals.records.get(name).cloned().unwrap_or_default()
    }

    /// The names of all metrics there are, with their prefix.
    pub(crate) fn names(&self) -> Vec<String> {
        let snapshot = self.snapshotter.snapshot().into_vec();
        let mut names: Vec<_> = snapshot
            .iter()
            .map(|(key, ..)| key.key().name().to_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The name spaces of all metrics there are.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let snapshot = self.snapshotter.snapshot().into_vec();
        let labels = snapshot.iter().flat_map(|(key, ..)| key.key().labels());
        let mut namespaces: Vec<_> = labels
            .filter(|label| label.key() == "namespace")
            .map(|label| label.value().to_owned())
            .collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        namespaces
    }

    /// How many duplicates wait.
    pub(crate) fn waiting(&self) -> f64 {
        self.number("waiting")
    }

    /// Asserts that nothing is under way any more.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        for gauge in ["running", "detached_tasks", "waiting"] {
            assert!(self.number(gauge) == 0.0, "{gauge}: {}", self.number(gauge));
        }
    }

    /// Adds what came since the last time: a snapshot of this recorder takes its numbers away.
    fn read(&self) -> std::sync::MutexGuard<'_, Totals> {
        let mut totals = self.totals.lock().unwrap();
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            let Some(name) = key.name().strip_prefix("steadfast_idempotency_") else {
                panic!("another's metric: {}", key.name());
            };
            let labels: Vec<_> = key
                .labels()
                .filter(|label| label.key() != "namespace")
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            let name = match labels.is_empty() {
                true => name.to_owned(),
                false => format!("{name}{{{}}}", labels.join(",")),
            };
            match value {
                DebugValue::Counter(count) => {
                    let count = u32::try_from(count).unwrap();
                    *totals.numbers.entry(name).or_default() += f64::from(count);
                }
                DebugValue::Gauge(number) => {
                    *totals.numbers.entry(name).or_default() += number.into_inner();
                }
                DebugValue::Histogram(records) => {
                    let records = records.into_iter().map(|record| record.into_inner());
                    totals.records.entry(name).or_default().extend(records);
                }
            }
        }
        totals
    }
}
