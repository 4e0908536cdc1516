//! The log as JSON, one object a line.
//!
//! The fields of all spans around an event stand beside its own, so that a line can be found by its request id alone. An error
//! comes with the errors that caused it, which `tracing_subscriber`'s own JSON leaves out.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    iter,
    time::SystemTime,
};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    fmt::MakeWriter,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

/// Writes each event as one line.
pub(super) struct JsonLines<W> {
    writer: W,
}

impl<W> JsonLines<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self { writer }
    }
}

/// The fields of a span, or of an event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), now().into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("target".to_owned(), metadata.target().into());
        let spans = context.event_scope(event).into_iter();
        for span in spans.flat_map(|scope| scope.from_root()) {
            add_fields(&span, &mut line);
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        line.extend(fields.0);

        // A log that cannot be written has nobody to tell.
        let _ = write(self.writer.make_writer_for(metadata), &line);
    }
}

fn add_fields<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>, line: &mut Map<String, Value>) {
    if let Some(Fields(fields)) = span.extensions().get() {
        line.extend(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
    }
}

/// In one piece, so that lines of several threads do not mix.
fn write(mut writer: impl Write, line: &Map<String, Value>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    writer.write_all(&text)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a line of the log tells people when it was written; nothing is decided by it"
)]
fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.insert(field, value.to_string());
        let sources: Vec<String> = iter::successors(value.source(), |error| (*error).source())
            .map(ToString::to_string)
            .collect();
        if !sources.is_empty() {
            self.0
                .insert(format!("{}.sources", field.name()), sources.into());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::failure::Failure;

    /// Where a test finds what was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(log: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let writer = written.clone();
        let subscriber =
            tracing_subscriber::registry().with(JsonLines::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn an_event_is_a_line_with_the_fields_of_its_spans() {
        let lines = written(|| {
            let request =
                tracing::info_span!("request", id = "r-1", outcome = tracing::field::Empty);
            let _request = request.enter();
            let work = tracing::info_span!("work", step = 2);
            work.in_scope(|| tracing::info!(is_done = true, took = 0.5, "a \"line\"\nof text"));
            request.record("outcome", "executed");
            tracing::warn!("the end");
        });

        let [first, second] = &*lines else {
            panic!("{lines:?}");
        };
        assert_eq!(first["level"], "INFO");
        assert_eq!(first["message"], "a \"line\"\nof text");
        assert_eq!((&first["id"], &first["step"]), (&"r-1".into(), &2.into()));
        assert_eq!(
            (&first["is_done"], &first["took"]),
            (&true.into(), &0.5.into())
        );
        assert!(first["target"].as_str().unwrap().ends_with("json::tests"));
        let time = first["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(second["outcome"], "executed");
        assert!(second.get("step").is_none());
    }

    #[test]
    fn an_error_comes_with_what_caused_it() {
        let lines = written(|| {
            let driver = Failure::because("the pool timed out", "no connection");
            let error = Failure::because("the table failed", driver);
            tracing::error!(error = &error as &dyn Error, "the database failed");
        });

        assert_eq!(lines[0]["error"], "the table failed");
        assert_eq!(
            lines[0]["error.sources"],
            serde_json::json!(["the pool timed out", "no connection"])
        );
    }
}
