//! `GET /metrics`, as Prometheus reads it.

use std::collections::BTreeMap;

use crate::client::Client;

/// Everything that a program exports at one moment.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) series: Vec<Series>,
    /// The type of each metric.
    pub(crate) types: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Scrape {
    pub(crate) async fn of(client: &Client) -> Self {
        let answer = client.send(client.bare("GET", "/metrics")).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; version=0.0.4")
        );
        Self::parse(std::str::from_utf8(&answer.body).unwrap())
    }

    fn parse(text: &str) -> Self {
        let (mut series, mut types) = (Vec::new(), BTreeMap::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                let words: Vec<&str> = comment.split_whitespace().collect();
                match *words {
                    ["TYPE", name, kind] => {
                        let before = types.insert(name.to_owned(), kind.to_owned());
                        assert_eq!(before, None, "{name} is exported twice");
                    }
                    ["HELP", _, _, ..] => {}
                    _ => panic!("{line}"),
                }
            } else {
                series.push(Series::parse(line));
            }
        }
        Self { series, types }
    }

    /// The series of a metric with these labels, and maybe more.
    pub(crate) fn find<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| {
            let has = |(label, value): &(&str, &str)| {
                series.labels.get(*label).map(String::as_str) == Some(value)
            };
            series.name == name && labels.iter().all(has)
        })
    }

    /// The sum of those.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).map(|series| series.value).sum()
    }

    /// The metric that a series belongs to: those of a histogram have names of their own.
    pub(crate) fn metric<'a>(&self, series: &'a Series) -> &'a str {
        let name = &*series.name;
        let of_histogram = ["_bucket", "_sum", "_count"].into_iter();
        of_histogram
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|name| {
                self.types
                    .get(*name)
                    .is_some_and(|kind| kind == "histogram")
            })
            .unwrap_or(name)
    }
}

impl Series {
    /// `name{label="value",…} 1.5`, or without labels.
    fn parse(line: &str) -> Self {
        let (head, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = match head.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            None => (head, ""),
        };
        Self {
            name: name.to_owned(),
            labels: pairs(labels),
            value: value.parse().expect(line),
        }
    }
}

fn pairs(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (label, rest) = text.split_once("=\"").expect(text);
        let (mut value, mut end) = (String::new(), None);
        let mut characters = rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = Some(at + 1);
                    break;
                }
                '\\' => match characters.next().expect(rest).1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                _ => value.push(character),
            }
        }
        labels.insert(label.to_owned(), value);
        text = rest[end.expect(rest)..].trim_start_matches(',');
    }
    labels
}

#[test]
fn a_scrape_is_read_as_it_is_written() {
    let scrape = Scrape::parse(
        "# HELP a_total what it is\n# TYPE a_total counter\na_total{x=\"1\",y=\"a \\\"b\\\\\\n{}, c\"} 5\n\n# TYPE b gauge\nb 1.5\n",
    );

    assert_eq!(scrape.series.len(), 2);
    assert_eq!(scrape.series[0].labels["y"], "a \"b\\\n{}, c");
    assert_eq!(scrape.sum("a_total", &[("x", "1")]), 5.0);
    assert_eq!(scrape.sum("a_total", &[("x", "2")]), 0.0);
    assert_eq!(
        (scrape.series[1].value, &*scrape.types["b"]),
        (1.5, "gauge")
    );
}
