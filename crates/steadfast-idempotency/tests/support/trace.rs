use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, Interest},
};
use tracing_subscriber::{
    Layer, fmt::MakeWriter, layer::Context, layer::SubscriberExt, registry::LookupSpan,
};

/// Wants nothing, and never says so for good.
///
/// tracing remembers for each call site that nobody wants it. A test on another thread that meets a call site first, without a
/// subscriber, would make it silent for the tests that listen.
struct Undecided;

impl Undecided {
    fn install() {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            tracing::subscriber::set_global_default(Self).unwrap();
        });
    }
}

impl Subscriber for Undecided {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Everything that is logged on this thread, at the finest level, as text.
pub(crate) struct Trace {
    text: Buffer,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Buffer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Trace {
    pub(crate) fn start() -> Self {
        Undecided::install();
        let text = Buffer::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(text.clone())
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text.0.lock().unwrap().clone()).unwrap()
    }
}

/// The fields of every span of this thread, in the order the spans were made.
pub(crate) struct Spans {
    seen: Arc<Mutex<Vec<Seen>>>,
    _guard: DefaultGuard,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    id: u64,
    pub(crate) name: &'static str,
    pub(crate) parent: Option<&'static str>,
    pub(crate) fields: BTreeMap<&'static str, String>,
    pub(crate) closed: bool,
}

impl Spans {
    pub(crate) fn start() -> Self {
        Undecided::install();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let subscriber = tracing_subscriber::registry().with(Watcher(Arc::clone(&seen)));
        Self {
            seen,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The spans of the layer.
    pub(crate) fn of_layer(&self) -> Vec<Seen> {
        let mut seen = self.seen.lock().unwrap().clone();
        seen.retain(|span| span.name == "idempotency");
        seen
    }

    /// How each keyed request ended.
    pub(crate) fn outcomes(&self) -> Vec<Option<String>> {
        self.of_layer()
            .iter()
            .map(|span| span.fields.get("idempotency.outcome").cloned())
            .collect()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().find(|span| span.name == name).cloned()
    }
}

struct Watcher(Arc<Mutex<Vec<Seen>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Watcher {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let parent = context
            .span(id)
            .and_then(|span| span.parent())
            .map(|parent| parent.name());
        let mut seen = Seen {
            id: id.into_u64(),
            name: attributes.metadata().name(),
            parent,
            fields: BTreeMap::new(),
            closed: false,
        };
        attributes.record(&mut Fields(&mut seen.fields));
        self.0.lock().unwrap().push(seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        // The registry gives the id of a closed span to a new one.
        if let Some(seen) = spans.iter_mut().rev().find(|span| span.id == id.into_u64()) {
            values.record(&mut Fields(&mut seen.fields));
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        if let Some(seen) = spans.iter_mut().rev().find(|span| span.id == id.into_u64()) {
            seen.closed = true;
        }
    }
}

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
