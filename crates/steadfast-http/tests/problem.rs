//! A problem becomes a legal response, whatever its parts hold.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use steadfast_http::{
    LocalRejection,
    problem::{Code, Problem, ProblemBase},
};

const TARGET: &str = "problem";

/// serde_json reads values that are nested up to 128 deep.
const MOST_BRACKETS: usize = 100;

#[test]
fn whatever_a_problem_holds_its_response_is_legal_and_says_it() {
    let replayed = AtomicUsize::new(0);
    bolero::check!(name = TARGET)
        .with_iterations(0)
        .for_each(|input: &[u8]| {
            replayed.fetch_add(1, Ordering::Relaxed);
            let Some(told) = Told::read(input) else {
                return;
            };

            let problem = told.problem();
            let response = problem.clone().into_response(&told.base());

            assert_eq!(response.status(), told.status);
            assert_eq!(*response.headers(), told.headers());
            let body: Map<String, Value> = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body, told.members());
            assert_eq!(response.extensions().get(), Some(&problem));
            assert_eq!(
                response.extensions().get(),
                Some(&LocalRejection::new(told.code))
            );
        });

    assert_ne!(
        replayed.into_inner(),
        0,
        "the corpus is not where bolero looks"
    );
}

#[test]
fn the_corpus_of_problems_is_where_the_fuzzer_looks() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/__fuzz__")
        .join(TARGET)
        .join("corpus");

    let problems = fs::read_dir(&corpus)
        .expect("the corpus stands beside its target")
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .filter_map(|input| Told::read(&input))
        .count();

    assert!(problems >= 10, "{problems} problems");
}

/// What the layer, the service and the client may each have put in.
struct Told {
    code: Code,
    status: StatusCode,
    retryable: bool,
    retry_after: Option<Duration>,
    base: String,
    detail: String,
    challenge: Option<HeaderValue>,
    added: Vec<(String, Value)>,
}

impl Told {
    /// Code, flags, status, seconds and nanoseconds as big-endian numbers; then lines: base, detail, challenge, and any number of
    /// members as `name=value`.
    fn read(input: &[u8]) -> Option<Self> {
        let (&[code, flags], rest) = input.split_first_chunk()?;
        let (status, rest) = rest.split_first_chunk()?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (nanoseconds, rest) = rest.split_first_chunk()?;
        let delay = Duration::new(
            u64::from_be_bytes(*seconds),
            u32::from_be_bytes(*nanoseconds) % 1_000_000_000,
        );
        let mut lines = rest.split(|&byte| byte == b'\n');
        Some(Self {
            code: Code::ALL[usize::from(code) % Code::ALL.len()],
            status: StatusCode::from_u16(u16::from_be_bytes(*status)).ok()?,
            retryable: flags & 1 != 0,
            retry_after: (flags & 2 != 0).then_some(delay),
            base: text(lines.next()?),
            detail: text(lines.next()?),
            challenge: HeaderValue::from_bytes(lines.next()?)
                .ok()
                .filter(|_| flags & 4 != 0),
            added: lines.map(member).collect(),
        })
    }

    fn base(&self) -> ProblemBase {
        ProblemBase::new(self.base.as_str())
    }

    fn problem(&self) -> Problem {
        let mut problem = Problem::new(self.code, self.detail.clone())
            .with_status(self.status)
            .with_retryable(self.retryable);
        if let Some(delay) = self.retry_after {
            problem = problem.with_retry_after(delay);
        }
        if let Some(challenge) = &self.challenge {
            problem = problem.with_challenge(challenge.clone());
        }
        for (name, value) in &self.added {
            problem = problem.with_member(name, value.clone());
        }
        problem
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut insert = |name, value: &str| {
            headers.insert(name, value.parse().expect("a legal value"));
        };
        insert(header::CONTENT_TYPE, "application/problem+json");
        insert(header::CACHE_CONTROL, "no-store");
        if let Some(delay) = self.retry_after {
            let seconds = delay.as_nanos().div_ceil(1_000_000_000);
            let seconds = seconds.clamp(1, u128::from(u64::MAX));
            insert(header::RETRY_AFTER, &seconds.to_string());
        }
        if let Some(challenge) = &self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
        }
        headers
    }

    fn members(&self) -> Map<String, Value> {
        let mut members: Map<String, Value> = self
            .added
            .iter()
            .map(|(name, value)| (name.clone(), written(value)))
            .collect();
        let kind = format!("{}#{}", self.base, self.code.as_str());
        members.insert("type".into(), kind.into());
        members.insert("title".into(), self.code.title().into());
        members.insert("status".into(), self.status.as_u16().into());
        members.insert("detail".into(), self.detail.clone().into());
        members.insert("code".into(), self.code.as_str().into());
        members.insert("retryable".into(), self.retryable.into());
        members
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

fn member(line: &[u8]) -> (String, Value) {
    let line = text(line);
    let (name, value) = line.split_once('=').unwrap_or((&line, ""));
    let brackets = value.matches(['[', '{']).count();
    let value = if brackets < MOST_BRACKETS {
        serde_json::from_str(value).unwrap_or_else(|_| value.into())
    } else {
        value.into()
    };
    (name.to_owned(), value)
}

/// A value after it was written and read: of a fraction, reading keeps all but the last digit.
fn written(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).expect("a value is written as JSON")
}
