//! Which series an expression of PromQL selects. promtool says whether it is one.

use std::iter::Peekable;

/// `name{label="value"}`, with any operator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    pub(crate) matchers: Vec<Matcher>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Matcher {
    pub(crate) label: String,
    pub(crate) value: String,
}

/// What has no bracket after it and selects nothing.
const WORDS: [&str; 15] = [
    "and", "avg", "bool", "bottomk", "count", "group", "inf", "max", "min", "offset", "or",
    "quantile", "sum", "topk", "unless",
];

/// What has a list of labels after it.
const BEFORE_LABELS: [&str; 6] = [
    "by",
    "group_left",
    "group_right",
    "ignoring",
    "on",
    "without",
];

/// All of an expression, in its order.
pub(crate) fn selectors(expression: &str) -> Vec<Selector> {
    let mut rest = expression.chars().peekable();
    let mut found = Vec::new();
    while let Some(&first) = rest.peek() {
        match first {
            '"' => _ = quoted(&mut rest),
            // A range.
            '[' => _ = rest.by_ref().find(|&each| each == ']'),
            // A number, or a duration with its unit.
            '0'..='9' => _ = name(&mut rest),
            _ if is_of_name(first) => {
                let name = name(&mut rest);
                skip_spaces(&mut rest);
                let next = rest.peek();
                if BEFORE_LABELS.contains(&&*name) {
                    if next == Some(&'(') {
                        rest.by_ref().find(|&each| each == ')');
                    }
                } else if next != Some(&'(') && !WORDS.contains(&&*name) {
                    let matchers = matchers(&mut rest);
                    found.push(Selector { name, matchers });
                }
            }
            '{' => panic!("a selector names its metric: {expression}"),
            _ => _ = rest.next(),
        }
    }
    found
}

/// What stands in braces, if there are any.
fn matchers(rest: &mut Peekable<impl Iterator<Item = char>>) -> Vec<Matcher> {
    let mut matchers = Vec::new();
    if rest.next_if_eq(&'{').is_none() {
        return matchers;
    }
    loop {
        while rest.next_if(|each| matches!(each, ' ' | ',')).is_some() {}
        if rest.next_if_eq(&'}').is_some() {
            return matchers;
        }
        let label = name(rest);
        assert!(!label.is_empty(), "no label after {matchers:?}");
        while rest
            .next_if(|each| matches!(each, ' ' | '=' | '!' | '~'))
            .is_some()
        {}
        let value = quoted(rest);
        matchers.push(Matcher { label, value });
    }
}

fn name(rest: &mut Peekable<impl Iterator<Item = char>>) -> String {
    let mut name = String::new();
    while let Some(each) = rest.next_if(|&each| is_of_name(each) || each == '.') {
        name.push(each);
    }
    name
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | ':')
}

fn quoted(rest: &mut Peekable<impl Iterator<Item = char>>) -> String {
    assert_eq!(rest.next(), Some('"'));
    let inside: String = rest.take_while(|&each| each != '"').collect();
    assert!(!inside.contains('\\'), "{inside}");
    inside
}

fn skip_spaces(rest: &mut Peekable<impl Iterator<Item = char>>) {
    while rest.next_if(|each| each.is_whitespace()).is_some() {}
}

#[test]
fn all_selectors_are_found_and_nothing_else() {
    let matcher = |label: &str, value: &str| Matcher {
        label: label.to_owned(),
        value: value.to_owned(),
    };
    let selector = |name: &str, matchers| Selector {
        name: name.to_owned(),
        matchers,
    };

    let found = selectors(
        "clamp_min(sum by (job, x) (rate(a_total{x=~\"1|sum(b)\", job!=\"c\"}[5m] offset 1h)), 0.5)\n\
         / on (job) group_left (y) max without(z) (b:c) > bool 2 or vector(1) unless d{}",
    );

    assert_eq!(
        found,
        [
            selector(
                "a_total",
                vec![matcher("x", "1|sum(b)"), matcher("job", "c")]
            ),
            selector("b:c", vec![]),
            selector("d", vec![]),
        ]
    );
}
