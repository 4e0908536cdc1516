//! The dashboard and the alerts, held against what a running program exports: a metric or a label that is misspelt shows nothing and
//! wakes nobody, and says so nowhere. promtool asks each question as Prometheus would.

mod promtool;
mod rules;
mod selectors;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::sync::OnceCell;

use self::{
    promtool::Verdict,
    rules::{Annotations, RULES, TESTS, path},
    selectors::{Matcher, Selector, selectors},
};
use crate::{
    client::{Client, of_amount},
    program::{Program, eventually},
    provider::Provider,
    scrape::{Scrape, Series},
};

const DASHBOARD: &str = include_str!("../../examples/payments/observability/dashboard.json");

/// What the layers say of their metrics, each in a table.
const DOCS: [&str; 3] = [
    include_str!("../../crates/steadfast-idempotency/README.md"),
    include_str!("../../crates/steadfast-retry/README.md"),
    include_str!("../../crates/steadfast-circuit-breaker/README.md"),
];

/// What one program exports after everything that the demo shows has happened to it: charges, replays, conflicts, faults that pass,
/// timeouts, an outage with its open circuit, and the recovery.
async fn exported() -> &'static Scrape {
    static EXPORTED: OnceCell<Scrape> = OnceCell::const_new();
    EXPORTED.get_or_init(after_the_traffic).await
}

async fn after_the_traffic() -> Scrape {
    let folder = tempdir().unwrap();
    let arguments = ["--provider-timeout", "500ms", "--breaker-open", "200ms"];
    let program = Program::serve(folder.path(), &arguments).await;
    let client = Client::new(program.api());
    let provider = Provider::new(program.provider_url());
    let healed = async |key: &str, faults: Value| {
        provider.faults(&faults).await;
        let answer = client.charge_until_answered(key, &of_amount(5)).await;
        assert_eq!(answer.status, 201);
    };

    healed("a", json!({"mode": "ok"})).await;
    client.charge("a", &of_amount(5)).await;
    client.charge("a", &of_amount(6)).await;
    healed("b", json!({"mode": "down", "count": 2})).await;
    healed("c", json!({"mode": "lose_response", "count": 1})).await;
    healed(
        "d",
        json!({"mode": "slow", "latency_ms": 60_000, "count": 1}),
    )
    .await;
    provider.faults(&json!({"mode": "down"})).await;
    for key in ["e", "f", "g"] {
        client.charge(key, &of_amount(5)).await;
    }
    provider.faults(&json!({"mode": "ok"})).await;
    eventually("the end of the open circuit", async || {
        for key in ["e", "f", "g"] {
            client.charge_until_answered(key, &of_amount(5)).await;
        }
        let health = client.send(client.bare("GET", "/healthz")).await.unwrap();
        (health.json()["breaker"] == "closed").then_some(())
    })
    .await;
    as_scraped(Scrape::of(&client).await)
}

/// With what Prometheus adds: the labels of the target, and whether it answered.
fn as_scraped(mut scrape: Scrape) -> Scrape {
    let up = Series {
        name: "up".to_owned(),
        labels: BTreeMap::new(),
        value: 1.0,
    };
    scrape.series.push(up);
    for series in &mut scrape.series {
        for (label, value) in [("job", "payments"), ("instance", "127.0.0.1:3000")] {
            let before = series.labels.insert(label.to_owned(), value.to_owned());
            assert_eq!(before, None, "{series:?}");
        }
    }
    scrape
}

/// A query of the dashboard, where it stands, and the labels that the text beside it names.
#[derive(Debug)]
struct Query {
    place: String,
    text: String,
    named: BTreeSet<String>,
}

/// Everything between `{{` and `}}`, or after `$labels.` there.
fn named(text: &str) -> BTreeSet<String> {
    let inside = text.split("{{").skip(1);
    let inside = inside.map(|rest| rest.split("}}").next().unwrap().trim());
    let labels = inside.filter_map(|inside| match inside.split_once("$labels.") {
        Some((_, label)) => Some(label),
        None if inside.starts_with('$') => None,
        None => Some(inside),
    });
    labels.map(str::to_owned).collect()
}

fn of_the_dashboard() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, "the dashboard", &mut queries);
    assert!(queries.len() > 30, "{}", queries.len());
    queries
}

/// Each object with an `expr`, wherever it stands.
fn collect(value: &Value, place: &str, queries: &mut Vec<Query>) {
    match value {
        Value::Array(values) => {
            for value in values {
                collect(value, place, queries);
            }
        }
        Value::Object(members) => {
            let title = members.get("title").or_else(|| members.get("name"));
            let place = title.and_then(Value::as_str).unwrap_or(place);
            if let Some(Value::String(text)) = members.get("expr") {
                let beside = ["legendFormat", "titleFormat"]
                    .iter()
                    .filter_map(|member| members.get(*member)?.as_str());
                queries.push(Query {
                    place: place.to_owned(),
                    text: text.clone(),
                    named: beside.flat_map(named).collect(),
                });
            }
            for value in members.values() {
                collect(value, place, queries);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Query {
    /// As Grafana sends it: the variables have their values.
    fn as_sent(&self) -> String {
        let sent = self
            .text
            .replace("$__rate_interval", "1m")
            .replace("$job", ".+")
            .replace("$instance", ".+");
        assert!(!sent.contains('$'), "{}: {sent}", self.place);
        sent
    }

    /// Something must come out, and all of it with the labels that are named; each selector and each of its words must select something.
    fn questions(&self) -> Vec<(String, Value)> {
        let sent = self.as_sent();
        let mut questions = vec![gives_something(&sent)];
        for label in &self.named {
            let without = format!("group(({sent}) and on ({label}) vector(1))");
            questions.push((without, json!([])));
        }
        questions.extend(selectors(&sent).iter().flat_map(parts));
        questions
    }
}

fn gives_something(expression: &str) -> (String, Value) {
    let samples = json!([{"labels": "{}", "value": 1}]);
    (format!("group({expression})"), samples)
}

/// Each condition of a selector by itself, and of `a|b` each: the others would hide one that selects nothing.
fn parts(selector: &Selector) -> Vec<(String, Value)> {
    let Selector { name, matchers } = selector;
    let condition = |Matcher { label, value }: &Matcher| {
        // The statuses of HTTP are series when they are answered, all others from the start.
        if label == "status" || value.contains('.') {
            vec![gives_something(&format!("{name}{{{label}=~\".+\"}}"))]
        } else {
            let words = value.split('|');
            let with = |word| gives_something(&format!("{name}{{{label}=\"{word}\"}}"));
            words.map(with).collect()
        }
    };
    let mut parts = vec![gives_something(name)];
    parts.extend(matchers.iter().flat_map(condition));
    parts
}

/// The series of a program, as promtool takes them: what is counted rises.
fn as_input(scrape: &Scrape) -> Vec<Value> {
    let input = |series: &Series| {
        let Series {
            name,
            labels,
            value,
        } = series;
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}={value:?}"))
            .collect();
        let kind = scrape.types.get(scrape.metric(series));
        let step = u8::from(kind.is_some_and(|kind| kind != "gauge"));
        json!({"series": format!("{name}{{{}}}", labels.join(",")), "values": format!("{value}+{step}x60")})
    };
    scrape.series.iter().map(input).collect()
}

/// The questions of all of them, at a program that has had all kinds of traffic.
async fn asked(questions: impl IntoIterator<Item = (String, Value)>) -> Verdict {
    let questions: Vec<_> = questions.into_iter().collect();
    promtool::ask(&as_input(exported().await), &questions)
}

fn passes(verdict: Verdict) {
    if let Err(said) = verdict {
        panic!("{said}");
    }
}

#[tokio::test]
async fn the_dashboard_shows_what_is_exported() {
    let queries = of_the_dashboard();

    passes(asked(queries.iter().flat_map(Query::questions)).await);
}

#[tokio::test]
async fn the_alerts_watch_what_is_exported_and_are_played_with_it() {
    let mut watched: Vec<_> = rules::rules()
        .iter()
        .flat_map(|rule| selectors(&rule.expr))
        .collect();
    for test in rules::tests().tests {
        let played = test.input_series.iter();
        watched.extend(played.flat_map(|input| selectors(&input.series)));
    }
    // Alerts are made by Prometheus, and each process has a name of its own.
    watched.retain(|selector| selector.name != "ALERTS");
    for selector in &mut watched {
        let matchers = &mut selector.matchers;
        matchers.retain(|matcher| !["job", "instance"].contains(&&*matcher.label));
    }

    passes(asked(watched.iter().flat_map(parts)).await);
}

#[tokio::test]
async fn what_is_misspelt_is_found() {
    for (text, legend) in [
        ("steadfast_retry_call_total", ""),
        ("up or steadfast_retry_call_total", ""),
        ("steadfast_retry_calls_total{breaker=\"card-provider\"}", ""),
        ("steadfast_retry_calls_total{stopped_by=\"budgets\"}", ""),
        ("steadfast_retry_calls_total{stopped_by!=\"budgets\"}", ""),
        ("steadfast_circuit_breaker_state{state=~\"open|ajar\"}", ""),
        (
            "histogram_quantile(0.9, sum by (job) (steadfast_retry_delay_seconds_bucket))",
            "",
        ),
        ("sum by (job) (up) / sum(up)", ""),
        ("sum by (job) (up)", "{{instance}}"),
        ("sum by (job (up)", ""),
        ("rate(up)", ""),
    ] {
        let query = Query {
            place: "a panel".to_owned(),
            text: text.to_owned(),
            named: named(legend),
        };

        assert!(asked(query.questions()).await.is_err(), "{text}");
    }
    passes(asked([gives_something("up")]).await);
}

#[test]
fn each_alert_fires_when_it_must_and_only_then() {
    passes(promtool::check(&path(RULES)));
    passes(promtool::play(&path(TESTS)));
}

#[test]
fn an_alert_with_another_threshold_or_another_time_fails_its_tests() {
    let (rules, tests) = (rules::rules(), rules::tests());
    let mut survivors = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        // Else each mutant would fail for another reason.
        passes(tests.play(&rule.alert, &rules));
        for mutant in rule.mutants() {
            let mut rules = rules.clone();
            rules[at] = mutant.clone();
            if tests.play(&rule.alert, &rules).is_ok() {
                survivors.push(format!("{} for {}", mutant.expr, mutant.r#for));
            }
        }
    }

    assert_eq!(survivors, [""; 0]);
}

#[tokio::test]
async fn the_panel_of_the_circuit_shows_the_worst_of_all_processes() {
    let queries = of_the_dashboard();
    let query = queries.iter().find(|query| query.place == "Circuit");
    let expression = query.unwrap().as_sent();
    let state = |instance: &str, state: &str, is: [u8; 3]| {
        let of = ["closed", "half_open", "open"].into_iter().zip(is);
        let labels = format!("job=\"payments\", instance=\"{instance}\", breaker=\"{state}\"");
        let series = of.map(|(state, is)| {
            let series = format!("steadfast_circuit_breaker_state{{{labels}, state=\"{state}\"}}");
            json!({"series": series, "values": format!("{is}x60")})
        });
        series.collect::<Vec<_>>()
    };
    let (closed, half_open, open) = ([1, 0, 0], [0, 1, 0], [0, 0, 1]);
    let series = [
        state("a", "one", open),
        state("b", "one", half_open),
        state("a", "two", half_open),
        state("b", "two", closed),
        state("a", "three", closed),
    ]
    .concat();
    let shown = json!([
        {"labels": "{breaker=\"one\"}", "value": 2},
        {"labels": "{breaker=\"two\"}", "value": 1},
        {"labels": "{breaker=\"three\"}", "value": 0},
    ]);

    passes(promtool::ask(&series, &[(expression, shown)]));
}

#[tokio::test]
async fn every_metric_of_every_layer_is_exported_as_its_docs_say_and_shown() {
    let scrape = exported().await;
    let mut documented = BTreeMap::new();
    for row in DOCS.iter().flat_map(|docs| docs.lines()) {
        let Some(rest) = row.strip_prefix("| `steadfast_") else {
            continue;
        };
        let (name, rest) = rest.split_once('`').unwrap();
        documented.insert(format!("steadfast_{name}"), rest);
    }
    let metrics: BTreeSet<&str> = scrape
        .series
        .iter()
        .map(|series| scrape.metric(series))
        .collect();
    let of_layers: BTreeSet<&str> = metrics
        .into_iter()
        .filter(|name| name.starts_with("steadfast_"))
        .collect();

    assert_eq!(of_layers, documented.keys().map(String::as_str).collect());
    for name in of_layers {
        assert!(
            DASHBOARD.contains(name),
            "the dashboard does not show {name}"
        );
        let labels = scrape
            .series
            .iter()
            .filter(|series| scrape.metric(series) == name);
        let own = labels.flat_map(|series| series.labels.keys());
        for label in own.filter(|label| {
            !["job", "instance", "le", "namespace", "store"].contains(&label.as_str())
        }) {
            assert!(
                documented[name].contains(&format!("`{label}`")),
                "{name}: {label}"
            );
        }
    }
}

#[test]
fn every_alert_says_whom_it_wakes_and_what_to_do() {
    let rules = rules::rules();
    let tests = rules::tests().tests;
    let names: BTreeSet<&str> = rules.iter().map(|rule| &*rule.alert).collect();

    assert_eq!(names.len(), rules.len(), "{names:?}");
    for rule in &rules {
        let name = &rule.alert;
        let severity = rule.labels.get("severity").map(String::as_str);
        assert!(matches!(severity, Some("page" | "ticket")), "{name}");
        for text in [&rule.annotations.summary, &rule.annotations.runbook] {
            assert!(text.len() > 20 && text.ends_with('.'), "{name}: {text}");
        }
        let questions = tests.iter().flat_map(|test| &test.promql_expr_test);
        let own: Vec<_> = questions
            .filter(|question| question.is_about(name))
            .collect();
        assert!(
            own.iter().any(|question| question.exp_samples.is_empty()),
            "{name} is never silent"
        );
        let fired = own.iter().flat_map(|question| &question.exp_samples);
        let labels: Vec<_> = fired.map(|sample| &sample.labels).collect();
        assert!(!labels.is_empty(), "{name} never fires");
        let Annotations { summary, runbook } = &rule.annotations;
        for label in named(summary).union(&named(runbook)) {
            let has = |labels: &&String| labels.contains(&format!(" {label}=\""));
            assert!(labels.iter().all(has), "{name} has no label {label}");
        }
    }
}

#[tokio::test]
async fn the_dashboard_can_be_imported() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();

    // The last version of this format, which Grafana 12 writes and later ones read.
    assert_eq!(dashboard["schemaVersion"], 42);
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{title} is wider than the screen");
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|text| text.ends_with('.')),
                "{title}"
            );
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    for variable in variables
        .iter()
        .filter(|variable| variable["type"] == "query")
    {
        let query = variable["query"]["query"].as_str().unwrap();
        let inside = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .expect(query);
        let (selector, label) = inside.rsplit_once(", ").unwrap();
        let query = Query {
            place: query.to_owned(),
            text: selector.to_owned(),
            named: BTreeSet::from([label.to_owned()]),
        };
        passes(asked(query.questions()).await);
    }
}
