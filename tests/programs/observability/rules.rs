//! The files of alerts, as promtool reads them: the rules, and the tests that play them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::tempdir;

use super::promtool::{self, Verdict};

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) alert: String,
    pub(crate) expr: String,
    pub(crate) r#for: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: Annotations,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Annotations {
    pub(crate) summary: String,
    pub(crate) runbook: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tests {
    rule_files: Vec<String>,
    evaluation_interval: String,
    pub(crate) tests: Vec<Test>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    name: String,
    interval: String,
    pub(crate) input_series: Vec<Input>,
    pub(crate) promql_expr_test: Vec<Question>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) series: String,
    values: String,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    expr: String,
    eval_time: String,
    pub(crate) exp_samples: Vec<Sample>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    pub(crate) labels: String,
    value: f64,
}

impl Question {
    /// Whether it asks which alerts of this rule fire.
    pub(crate) fn is_about(&self, alert: &str) -> bool {
        self.expr == format!(r#"ALERTS{{alertname="{alert}", alertstate="firing"}}"#)
    }
}

impl Test {
    fn is_about(&self, alert: &str) -> bool {
        let mut questions = self.promql_expr_test.iter();
        questions.any(|question| question.is_about(alert))
    }
}

pub(crate) const RULES: &str = "alerts.yml";
pub(crate) const TESTS: &str = "alerts.test.yml";

pub(crate) fn path(name: &str) -> PathBuf {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/payments/observability"
    );
    PathBuf::from(folder).join(name)
}

pub(crate) fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(path(RULES)).unwrap();
    let mut rules: Rules = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(rules.groups.len(), 1);
    let group = rules.groups.remove(0);
    assert_eq!(group.name, "payments");
    group.rules
}

pub(crate) fn tests() -> Tests {
    let text = fs::read_to_string(path(TESTS)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

impl Tests {
    /// Plays the tests that are about an alert, with the rules of all alerts that they ask for.
    pub(crate) fn play(&self, alert: &str, rules: &[Rule]) -> Verdict {
        let mut own = self.clone();
        own.tests.retain(|test| test.is_about(alert));
        let is_asked_for = |rule: &&Rule| own.tests.iter().any(|test| test.is_about(&rule.alert));
        let group = Group {
            name: "payments".to_owned(),
            rules: rules.iter().filter(is_asked_for).cloned().collect(),
        };
        let rules = Rules {
            groups: vec![group],
        };
        let folder = tempdir().unwrap();
        // JSON is YAML.
        let put = |name: &str, content: String| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        put(RULES, serde_json::to_string(&rules).unwrap());
        promtool::play(&put(TESTS, serde_json::to_string(&own).unwrap()))
    }
}

impl Rule {
    /// The rule with another threshold or another time, in each way that somebody should notice.
    pub(crate) fn mutants(&self) -> Vec<Self> {
        let mut mutants = Vec::new();
        for (at, threshold) in thresholds(&self.expr) {
            for other in threshold.others() {
                let (before, after) = (&self.expr[..at], &self.expr[at + threshold.len()..]);
                mutants.push(Self {
                    expr: format!("{before}{other}{after}"),
                    ..self.clone()
                });
            }
        }
        assert!(!mutants.is_empty(), "{} has no threshold", self.alert);
        let minutes = match self.r#for.strip_suffix('h') {
            Some(hours) => hours.parse::<u32>().unwrap() * 60,
            None => self.r#for.strip_suffix('m').unwrap().parse().unwrap(),
        };
        for minutes in [minutes.checked_sub(1), Some(minutes + 1)] {
            mutants.extend(minutes.map(|minutes| Self {
                r#for: format!("{minutes}m"),
                ..self.clone()
            }));
        }
        mutants
    }
}

/// `> 0.05`, as it is written.
struct Threshold<'a> {
    operator: &'a str,
    number: &'a str,
}

impl Threshold<'_> {
    fn len(&self) -> usize {
        self.operator.len() + " ".len() + self.number.len()
    }

    fn others(&self) -> Vec<String> {
        let number: f64 = self.number.parse().unwrap();
        let operator = self.operator;
        if number == 0.0 {
            // Of what is counted one must be enough.
            vec![format!("{operator} 2"), format!(">= {number}")]
        } else {
            let near = [0.8, 1.25].map(|factor| format!("{operator} {}", number * factor));
            near.into()
        }
    }
}

/// Each comparison with a number, and where it stands.
fn thresholds(expression: &str) -> Vec<(usize, Threshold<'_>)> {
    let operators = expression.match_indices(['>', '<', '=']);
    let comparisons = operators.filter_map(|(at, _)| {
        let (operator, rest) = expression[at..].split_once(' ')?;
        let end = rest.find(|each: char| !each.is_ascii_digit() && each != '.');
        let number = &rest[..end.unwrap_or(rest.len())];
        number.parse::<f64>().ok()?;
        // The second half of an operator has been seen with its first.
        let is_whole = !expression[..at].ends_with(['>', '<', '=', '!']);
        is_whole.then_some((at, Threshold { operator, number }))
    });
    comparisons.collect()
}
