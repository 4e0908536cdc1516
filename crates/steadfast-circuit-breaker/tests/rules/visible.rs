//! circuit-breaker B12: what operators see.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::Once};

use steadfast_circuit_breaker::{State, Verdict};
use tokio::time::advance;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{layer, prelude::*};

use crate::support::{
    NAME, Recorded, Site, Step, breaker, broken, failure, get, ok, outcomes, record, secs, steady,
    throttled,
};

type Fields = BTreeMap<&'static str, String>;

/// One log line.
#[derive(Debug)]
struct Line {
    level: Level,
    fields: Fields,
}

thread_local! {
    /// What was logged by this test: each has a thread of its own.
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the lines of each thread. One for all tests, as tracing remembers for all threads which lines nobody wants.
struct Listener;

impl<S: Subscriber> layer::Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        if !event
            .metadata()
            .target()
            .starts_with("steadfast_circuit_breaker")
        {
            return;
        }
        let mut fields = Values::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        let fields = fields.0;
        LINES.with_borrow_mut(|lines| lines.push(Line { level, fields }));
    }
}

#[derive(Default)]
struct Values(Fields);

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

/// From here on, this thread's lines are kept.
fn listen() {
    static LISTENER: Once = Once::new();
    LISTENER.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Listener);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
    LINES.take();
}

/// Of the line's fields, those that are named.
fn told<'a, const N: usize>(line: &'a Line, names: [&'static str; N]) -> [&'a str; N] {
    names.map(|name| line.fields.get(name).map_or("", |value| &**value))
}

#[tokio::test(start_paused = true)]
async fn an_opening_is_a_warning_and_each_other_change_is_information() {
    listen();
    let site = Site::http(steady(), [ok()]);
    site.recover().await;
    for _ in 0..3 {
        site.get().await;
    }
    site.breaker.force_open();
    site.breaker.disable();

    let lines = LINES.take();
    let changes: Vec<_> = lines
        .iter()
        .map(|line| {
            let fields = told(line, ["breaker", "from", "to", "reason"]);
            (line.level, fields)
        })
        .collect();
    assert_eq!(
        changes,
        [
            (
                Level::WARN,
                [NAME, "closed", "open", "consecutive_failures"]
            ),
            (Level::INFO, [NAME, "open", "half_open", "open_time_over"]),
            (
                Level::INFO,
                [NAME, "half_open", "closed", "probes_succeeded"]
            ),
            (Level::WARN, [NAME, "closed", "forced_open", "by_hand"]),
            (Level::INFO, [NAME, "forced_open", "disabled", "by_hand"]),
        ]
    );
    let counts = ["calls", "failures", "open_for", "message"];
    assert_eq!(told(&lines[0], counts), ["5", "5", "30s", "circuit opened"]);
    assert_eq!(told(&lines[2], ["calls", "failures"]), ["3", "0"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_only_observes_warns_that_it_would_have_opened() {
    listen();
    let site = Site::http(steady(), [broken()]);
    site.breaker.observe_only();
    LINES.take();
    for _ in 0..10 {
        site.get().await;
    }

    let lines = LINES.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].level, Level::WARN);
    assert_eq!(
        told(&lines[0], ["breaker", "reason", "message", "calls"]),
        [
            NAME,
            "consecutive_failures",
            "circuit would have opened",
            "5"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn calls_and_rejections_are_not_logged() {
    listen();
    let site = Site::http(steady(), [broken()]);
    for _ in 0..4 {
        site.get().await;
    }
    assert!(LINES.take().is_empty());
    site.trip();
    LINES.take();
    for _ in 0..4 {
        site.get().await;
    }
    assert!(LINES.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_is_logged_as_an_error() {
    listen();
    let breaker = breaker(steady());
    breaker.on_transition(|_, _| panic!("it goes wrong"));
    breaker.force_open();

    let lines = LINES.take();
    let levels: Vec<_> = lines.iter().map(|line| line.level).collect();
    assert_eq!(levels, [Level::WARN, Level::ERROR]);
    assert_eq!(told(&lines[1], ["breaker"]), [NAME]);
}

#[tokio::test(start_paused = true)]
async fn exactly_one_state_is_one_and_each_other_is_zero() {
    let states = [
        State::Closed,
        State::Open,
        State::HalfOpen,
        State::Closed,
        State::ForcedOpen,
        State::Disabled,
        State::ObserveOnly,
    ];
    // Looked at, a gauge reads as zero until it is set again: each state has a breaker of its own.
    for (last, state) in states.into_iter().enumerate() {
        let recorded = Recorded::new();
        let site = Site::http(steady(), [ok()]);
        site.get().await;
        for step in 1..=last {
            match step {
                1 => site.trip(),
                2 => {
                    advance(secs(30)).await;
                    site.get().await;
                }
                3 => {
                    site.get().await;
                    site.get().await;
                }
                4 => site.breaker.force_open(),
                5 => site.breaker.disable(),
                _ => site.breaker.observe_only(),
            }
        }

        let expected = State::ALL.iter().map(|each| {
            let value = if *each == state { 1.0 } else { 0.0 };
            (format!("state{{state={}}}", each.as_str()), value)
        });
        assert_eq!(recorded.gauges(), expected.collect(), "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_gauge_stays_where_it_is_when_it_only_would_have_opened() {
    let recorded = Recorded::new();
    let breaker = breaker(steady());
    breaker.observe_only();
    assert_eq!(recorded.gauges()["state{state=observe_only}"], 1.0);
    for _ in 0..10 {
        record(&breaker, failure());
    }
    // Looked at, a gauge reads as zero until it is set again.
    assert!(recorded.gauges().values().all(|value| *value == 0.0));
    assert_eq!(
        recorded
            .counter("transitions_total{from=observe_only,to=open,reason=consecutive_failures}"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_state_that_was_commanded_before_any_call_is_shown() {
    let recorded = Recorded::new();
    breaker(steady()).force_open();

    let gauges = recorded.gauges();
    assert_eq!(gauges["state{state=forced_open}"], 1.0);
    assert_eq!(gauges["state{state=closed}"], 0.0);
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_outcome_and_a_slow_success_as_slow() {
    let recorded = Recorded::new();
    let window = steadfast_circuit_breaker::Window::Calls(100);
    let breaker = breaker(steady().with_slow_calls(secs(2), 1.0, window, 100));
    for verdict in [
        Verdict::Success,
        failure(),
        throttled(),
        Verdict::Ignored,
        Verdict::Success,
    ] {
        record(&breaker, verdict);
    }
    for verdict in [
        Verdict::Success,
        Verdict::Success,
        failure(),
        throttled(),
        Verdict::Ignored,
    ] {
        let permit = breaker.admit(None).unwrap();
        advance(secs(2)).await;
        permit.record(verdict);
    }

    assert_eq!(
        recorded.outcomes(),
        outcomes([
            ("failure", 2),
            ("ignored", 2),
            ("slow", 2),
            ("success", 2),
            ("throttled", 2)
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn rejections_are_counted_by_their_reason() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [Step::Hang]);
    site.trip();
    for _ in 0..3 {
        site.get().await;
    }
    assert!(site.breaker.admit(None).is_err());
    advance(secs(30)).await;
    let _probe = site.pending(get());
    for _ in 0..2 {
        site.get().await;
    }
    site.breaker.force_open();
    site.get().await;

    assert_eq!(recorded.counter("rejections_total{refusal=open}"), 4);
    assert_eq!(recorded.counter("rejections_total{refusal=probing}"), 2);
    assert_eq!(recorded.counter("rejections_total{refusal=forced}"), 1);
    assert_eq!(recorded.outcomes(), outcomes([("failure", 5)]));
}

#[tokio::test(start_paused = true)]
async fn transitions_are_counted_by_both_states_and_the_reason() {
    let recorded = Recorded::new();
    let site = Site::http(steady(), [ok()]);
    site.recover().await;
    for _ in 0..3 {
        site.get().await;
    }
    site.recover().await;
    site.breaker.disable();

    let transitions: Vec<_> = recorded.counters("transitions_total").into_iter().collect();
    let expected = [
        ("closed,to=open,reason=consecutive_failures", 2),
        ("half_open,to=closed,reason=probes_succeeded", 1),
        ("open,to=disabled,reason=by_hand", 1),
        ("open,to=half_open,reason=open_time_over", 1),
    ];
    let expected =
        expected.map(|(labels, count)| (format!("transitions_total{{from={labels}}}"), count));
    assert_eq!(transitions, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_is_counted_once_and_only_there() {
    let recorded = Recorded::new();
    let breaker = breaker(steady());
    let late: Vec<_> = (0..3).map(|_| breaker.admit(None).unwrap()).collect();
    breaker.reset();
    let mut late = late.into_iter();
    late.next().unwrap().record(Verdict::Success);
    late.next().unwrap().record(failure());
    drop(late.next());

    assert_eq!(recorded.stale(), 2, "what is dropped has no result");
    assert_eq!(recorded.outcomes(), []);
}

#[test]
fn debug_shows_names_and_no_secrets() {
    let site = Site::http(steady(), [ok()]);
    let service = site.service();
    for text in [format!("{:?}", site.breaker), format!("{:?}", site.layer)] {
        assert!(text.contains(NAME) && text.contains("Closed"), "{text}");
    }
    drop(service);
}
