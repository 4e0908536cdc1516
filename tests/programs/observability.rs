//! The dashboard and the alerts, held against what a running program exports: a metric or a label that is misspelt shows nothing and
//! wakes nobody, and says so nowhere.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::{
    label::Matcher,
    parser::{
        self, AggregateExpr, BinaryExpr, Call, Expr, LabelModifier, VectorSelector,
        value::ValueType,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::sync::OnceCell;

use crate::{
    client::{Client, of_amount},
    program::{Program, eventually},
    provider::Provider,
    scrape::{Scrape, Series},
};

const DASHBOARD: &str = include_str!("../../examples/payments/observability/dashboard.json");
const ALERTS: &str = include_str!("../../examples/payments/observability/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../examples/payments/observability/alerts.test.yml");

/// What the layers say of their metrics, each in a table.
const DOCS: [&str; 3] = [
    include_str!("../../crates/steadfast-idempotency/README.md"),
    include_str!("../../crates/steadfast-retry/README.md"),
    include_str!("../../crates/steadfast-circuit-breaker/README.md"),
];

type Labels = BTreeSet<String>;

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

/// A query, where it stands, and the labels that the text beside it names.
#[derive(Debug)]
struct Query {
    place: String,
    text: String,
    named: Labels,
}

/// Everything between `{{` and `}}`, or after `$labels.` there.
fn named(text: &str) -> Labels {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    r#for: String,
    labels: BTreeMap<String, String>,
    annotations: Annotations,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    summary: String,
    runbook: String,
}

fn rules() -> Vec<Rule> {
    let rules: Rules = serde_saphyr::from_str(ALERTS).unwrap();
    let groups: Vec<&str> = rules.groups.iter().map(|group| &*group.name).collect();
    assert_eq!(groups, ["payments"]);
    rules
        .groups
        .into_iter()
        .flat_map(|group| group.rules)
        .collect()
}

fn of_the_alerts() -> Vec<Query> {
    let query = |rule: Rule| Query {
        place: rule.alert,
        text: rule.expr,
        named: [
            named(&rule.annotations.summary),
            named(&rule.annotations.runbook),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    rules().into_iter().map(query).collect()
}

/// As Grafana sends it: the variables have their values.
fn parsed(query: &Query) -> Expr {
    let text = query
        .text
        .replace("$__rate_interval", "1m")
        .replace("$job", ".+")
        .replace("$instance", ".+");
    assert!(!text.contains('$'), "{}: {text}", query.place);
    parser::parse(&text).unwrap_or_else(|error| panic!("{}: {text}: {error}", query.place))
}

/// Reads queries against what is exported, and notes what is not there.
struct Reader<'a> {
    scrape: &'a Scrape,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// The labels of each result.
    fn labels(&mut self, expr: &Expr) -> Labels {
        match expr {
            Expr::Aggregate(aggregate) => self.of_aggregate(aggregate),
            Expr::Binary(binary) => self.of_binary(binary),
            Expr::Call(call) => self.of_call(call),
            Expr::VectorSelector(selector) => self.of_selector(selector),
            Expr::MatrixSelector(selector) => self.of_selector(&selector.vs),
            Expr::Paren(inner) => self.labels(&inner.expr),
            Expr::Unary(inner) => self.labels(&inner.expr),
            Expr::Subquery(inner) => self.labels(&inner.expr),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => Labels::new(),
        }
    }

    fn of_aggregate(&mut self, aggregate: &AggregateExpr) -> Labels {
        let inner = self.labels(&aggregate.expr);
        let Some(modifier) = &aggregate.modifier else {
            return Labels::new();
        };
        let listed: Labels = modifier.labels().labels.iter().cloned().collect();
        for label in listed.difference(&inner) {
            self.problems.push(format!(
                "no label {label} to group by in {}",
                aggregate.expr
            ));
        }
        match modifier {
            LabelModifier::Include(_) => listed,
            LabelModifier::Exclude(_) => inner.difference(&listed).cloned().collect(),
        }
    }

    /// Two vectors match where they have the same labels: with others, nothing would ever come out.
    fn of_binary(&mut self, binary: &BinaryExpr) -> Labels {
        let (left, right) = (self.labels(&binary.lhs), self.labels(&binary.rhs));
        let is_vector = |side: &Expr| side.value_type() == ValueType::Vector;
        if let (true, true) = (is_vector(&binary.lhs), is_vector(&binary.rhs))
            && left != right
        {
            self.problems
                .push(format!("{left:?} never match {right:?} in {binary}"));
        }
        if is_vector(&binary.lhs) { left } else { right }
    }

    fn of_call(&mut self, call: &Call) -> Labels {
        let mut labels = Labels::new();
        for argument in &call.args.args {
            labels.extend(self.labels(argument));
        }
        if call.func.name == "histogram_quantile" && !labels.remove("le") {
            self.problems.push(format!("no buckets in {call}"));
        }
        labels
    }

    /// The labels that all series have which are selected.
    fn of_selector(&mut self, selector: &VectorSelector) -> Labels {
        let name = selector
            .name
            .as_deref()
            .expect("a selector names its metric");
        let all: Vec<&Series> = self.scrape.find(name, &[]).collect();
        let matchers = &selector.matchers.matchers;
        if all.is_empty() {
            self.problems.push(format!("{name} is not exported"));
            return Labels::new();
        }
        for matcher in matchers {
            if !all
                .iter()
                .any(|series| series.labels.contains_key(&matcher.name))
            {
                self.problems
                    .push(format!("{name} has no label {}", matcher.name));
            }
            self.look_for_each_word(name, &all, matcher);
        }
        let is_selected = |series: &&&Series| {
            let value = |name| series.labels.get(name).map_or("", String::as_str);
            matchers
                .iter()
                .all(|matcher| matcher.is_match(value(&matcher.name)))
        };
        let selected = all.iter().filter(is_selected);
        let labels = selected.map(|series| series.labels.keys().cloned().collect::<Labels>());
        labels
            .reduce(|one, other| one.intersection(&other).cloned().collect())
            .unwrap_or_else(|| {
                self.problems
                    .push(format!("nothing is selected by {selector}"));
                Labels::new()
            })
    }

    /// Of `a|b`, each. The statuses of HTTP apart, which come when they are answered: the others are series from the start.
    fn look_for_each_word(&mut self, name: &str, all: &[&Series], matcher: &Matcher) {
        if matcher.name == "status" || matcher.value.contains('.') {
            return;
        }
        for word in matcher.value.split('|') {
            if !all.iter().any(|series| {
                series
                    .labels
                    .get(&matcher.name)
                    .is_some_and(|value| value == word)
            }) {
                self.problems
                    .push(format!("{name} has no {} {word}", matcher.name));
            }
        }
    }
}

fn problems_of(queries: &[Query], scrape: &Scrape) -> Vec<String> {
    let mut problems = Vec::new();
    for query in queries {
        let mut reader = Reader {
            scrape,
            problems: Vec::new(),
        };
        let labels = reader.labels(&parsed(query));
        for label in query.named.difference(&labels) {
            reader
                .problems
                .push(format!("no label {label} for the text beside"));
        }
        let found = reader.problems.into_iter();
        problems.extend(found.map(|problem| format!("{}: {problem}", query.place)));
    }
    problems
}

#[tokio::test]
async fn the_dashboard_shows_what_is_exported() {
    let problems = problems_of(&of_the_dashboard(), exported().await);

    assert_eq!(problems, [""; 0]);
}

#[tokio::test]
async fn the_alerts_watch_what_is_exported() {
    let problems = problems_of(&of_the_alerts(), exported().await);

    assert_eq!(problems, [""; 0]);
}

#[tokio::test]
async fn what_is_misspelt_is_found() {
    for (text, legend, problem) in [
        (
            "steadfast_retry_call_total",
            "",
            "steadfast_retry_call_total is not exported",
        ),
        (
            "steadfast_retry_calls_total{breaker=\"card-provider\"}",
            "",
            "has no label breaker",
        ),
        (
            "steadfast_retry_calls_total{stopped_by=\"budgets\"}",
            "",
            "has no stopped_by budgets",
        ),
        (
            "steadfast_circuit_breaker_state{state=~\"open|ajar\"}",
            "",
            "has no state ajar",
        ),
        (
            "sum by (reason) (steadfast_retry_calls_total)",
            "",
            "no label reason to group by",
        ),
        (
            "histogram_quantile(0.9, sum by (job) (steadfast_retry_delay_seconds_bucket))",
            "",
            "no buckets",
        ),
        ("sum by (job) (up) / sum(up)", "", "never match"),
        ("sum by (job) (up)", "{{instance}}", "no label instance"),
    ] {
        let query = Query {
            place: "a panel".to_owned(),
            text: text.to_owned(),
            named: named(legend),
        };

        let problems = problems_of(&[query], exported().await);

        assert!(
            problems.iter().any(|found| found.contains(problem)),
            "{text}: {problems:?}"
        );
    }
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
    let rules = rules();
    let names: BTreeSet<&str> = rules.iter().map(|rule| &*rule.alert).collect();

    assert_eq!(names.len(), rules.len(), "{names:?}");
    for rule in &rules {
        let name = &rule.alert;
        let severity = rule.labels.get("severity").map(String::as_str);
        assert!(matches!(severity, Some("page" | "ticket")), "{name}");
        let pending = format!("up[{}]", rule.r#for);
        assert!(parser::parse(&pending).is_ok(), "{name}: {pending}");
        for text in [&rule.annotations.summary, &rule.annotations.runbook] {
            assert!(text.len() > 20 && text.ends_with('.'), "{name}: {text}");
        }
        assert!(
            ALERT_TESTS.contains(&format!("\"{name}\""))
                || ALERT_TESTS.contains(&format!("alertname: {name}")),
            "{name} has no test"
        );
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
            named: Labels::from([label.to_owned()]),
        };
        assert_eq!(problems_of(&[query], exported().await), [""; 0]);
    }
}
