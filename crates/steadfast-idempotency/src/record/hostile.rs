//! What a damaged, foreign or hostile store, and a hostile handler, can make of a record.

use std::{
    convert::Infallible,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::Request;
use http_body_util::{BodyExt, Empty};
use steadfast_core::idempotency::{IdempotencyKey, OwnerId, Promise, Terms, Transition};
use steadfast_http::body::CapturedBody;
use steadfast_store::{Begin, MemoryStore, Store};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{IdempotencyLayer, digest, fingerprint::Recipe, scope};

const STORED: &str = "stored_record";
const ANSWERS: &str = "answer";

/// What stands in front of a value in the stored form, and one byte of a name: no header is shorter.
const SHORTEST_HEADER: u64 = 10;

/// What a header map and a name take for one header, the doubling of the map's tables included.
const MOST_PER_HEADER: u64 = 600;

#[test]
fn stored_bytes_are_read_whole_or_refused() {
    let replayed = AtomicUsize::new(0);
    bolero::check!(name = STORED)
        .with_iterations(0)
        .for_each(|input: &[u8]| {
            replayed.fetch_add(1, Ordering::Relaxed);
            let Some(stored) = stored(input) else { return };

            match decode_within_bounds(&stored) {
                Ok(record) => {
                    assert_eq!(stored.format(), 1);
                    let again = record.encode();
                    assert_eq!(Record::decode(&again).as_ref(), Ok(&record));
                    assert_eq!(read_again(&record).encode(), again);
                }
                Err(UnreadableRecord::Format(format)) => {
                    assert_eq!(format, stored.format());
                    assert_ne!(format, 1);
                }
                Err(UnreadableRecord::Content) => assert_eq!(stored.format(), 1),
            }
        });

    assert_ne!(
        replayed.into_inner(),
        0,
        "the corpus is not where bolero looks"
    );
}

#[test]
fn a_replay_of_whatever_is_stored_is_a_legal_response() {
    let replayed = AtomicUsize::new(0);
    bolero::check!(name = STORED)
        .with_iterations(0)
        .for_each(|input: &[u8]| {
            replayed.fetch_add(1, Ordering::Relaxed);
            let Some(stored) = stored(input) else { return };

            let (head, body, trailers) = replay(&stored);

            assert!(!head.status.is_informational());
            match Record::decode(&stored) {
                Ok(Record::Whole { .. }) => {
                    let marks = head.headers.get_all(IDEMPOTENT_REPLAYED);
                    assert_eq!(marks.iter().collect::<Vec<_>>(), ["true"]);
                    assert!(stored.bytes().ends_with(&body));
                    let announced = trailers.as_ref().map(|_| "trailer");
                    let others = ["idempotent-replayed"].into_iter().chain(announced);
                    assert_own(&head.headers, &others.collect::<Vec<_>>());
                    assert_own(&trailers.unwrap_or_default(), &[]);
                }
                Ok(Record::Tombstone { .. }) => {
                    assert_refused(&head, &body, "response-not-retained");
                }
                Err(_) => assert_refused(&head, &body, "store-unavailable"),
            }
        });

    assert_ne!(
        replayed.into_inner(),
        0,
        "the corpus is not where bolero looks"
    );
}

#[test]
fn of_any_answer_exactly_its_own_headers_are_kept() {
    let replayed = AtomicUsize::new(0);
    bolero::check!(name = ANSWERS)
        .with_iterations(0)
        .for_each(|input: &[u8]| {
            replayed.fetch_add(1, Ordering::Relaxed);
            let (headers, trailers) = fields(input);
            let mut head = http::Response::new(()).into_parts().0;
            head.headers = headers;

            let record = Record::whole(&head, Bytes::from_static(b"body"), trailers.clone());

            assert_eq!(read_again(&record), record);
            let Record::Whole {
                headers: kept_headers,
                trailers: kept_trailers,
                ..
            } = record
            else {
                panic!("200 is a final status");
            };
            assert_eq!(kept_trailers.is_some(), trailers.is_some());
            let announced = trailers.is_some().then_some("trailer");
            assert_eq!(
                listed(&kept_headers),
                own(&head.headers, &head.headers, announced)
            );
            assert_eq!(
                listed(&kept_trailers.unwrap_or_default()),
                own(&trailers.unwrap_or_default(), &head.headers, None)
            );
        });

    assert_ne!(
        replayed.into_inner(),
        0,
        "the corpus is not where bolero looks"
    );
}

#[test]
fn the_corpora_are_where_the_fuzzer_looks() {
    let records = corpus(STORED);
    let readable = records
        .iter()
        .filter_map(|input| stored(input))
        .filter(|stored| Record::decode(stored).is_ok())
        .count();
    assert!(readable >= 10, "{readable} of {}", records.len());
    assert!(records.len() - readable >= 10);

    let answers = corpus(ANSWERS);
    let with_trailers = answers
        .iter()
        .filter(|input| fields(input).1.is_some())
        .count();
    assert!(with_trailers >= 3, "{with_trailers} of {}", answers.len());
    assert!(answers.len() - with_trailers >= 10);
}

/// Each `.bin` is what a version of this crate writes; the `.txt` beside it says what it means.
#[test]
fn every_record_of_format_1_is_read_as_it_was_written() {
    let folder = beside().join("format-1");
    let mut count = 0;
    for path in files(&folder) {
        if path.extension().is_some_and(|extension| extension == "bin") {
            let stored = StoredResponse::new(1, fs::read(&path).unwrap());
            let record = Record::decode(&stored).unwrap_or_else(|error| {
                panic!("{}: {error}", path.display());
            });
            let meant = fs::read_to_string(path.with_extension("txt")).unwrap();
            assert_eq!(told(&record), meant, "{}", path.display());
            assert_eq!(record.encode(), stored, "{}", path.display());
            count += 1;
        }
    }

    assert!(count >= 10, "{count} records in {}", folder.display());
}

#[test]
fn a_count_that_the_bytes_cannot_hold_allocates_nothing_for_it() {
    let mut bytes = vec![WHOLE, 0, 200];
    bytes.extend(u32::MAX.to_be_bytes());
    bytes.extend([0; 13]);
    let stored = StoredResponse::new(1, bytes);

    assert_eq!(
        decode_within_bounds(&stored),
        Err(UnreadableRecord::Content)
    );
}

#[test]
fn as_many_headers_as_a_map_holds_are_kept_and_read_or_refused() {
    for names in [24_575_u32, 24_576] {
        let mut head = http::Response::new(()).into_parts().0;
        for name in 0..names {
            let name = HeaderName::from_bytes(format!("x-{name}").as_bytes()).unwrap();
            head.headers.append(name, HeaderValue::from_static("1"));
        }

        let stored = Record::whole(&head, Bytes::new(), None).encode();

        let (replayed, ..) = replay(&stored);
        let has_room = names == 24_575;
        assert_eq!(
            replayed.headers.contains_key(IDEMPOTENT_REPLAYED),
            has_room,
            "{names} names"
        );
    }
}

#[test]
fn a_name_may_have_more_values_than_a_map_holds_names() {
    let mut head = http::Response::new(()).into_parts().0;
    for _ in 0..40_000 {
        head.headers.append("x-a", HeaderValue::from_static("1"));
    }

    let record = Record::whole(&head, Bytes::new(), None);

    assert_eq!(read_again(&record), record);
}

#[test]
fn an_informational_status_is_no_answer_to_replay() {
    let mut head = http::Response::new(()).into_parts().0;
    head.status = StatusCode::EARLY_HINTS;

    let record = Record::whole(&head, Bytes::from_static(b"body"), None);
    let forged = StoredResponse::new(1, &b"\0\0\x67\0\0\0\0\0body"[..]);

    assert_eq!(record, Record::tombstone(&head));
    assert_eq!(Record::decode(&forged), Err(UnreadableRecord::Content));
}

#[test]
fn what_is_never_stored_is_not_read_either() {
    let length = b"\0\0\xc8\0\0\0\x01\0\0\0\x0econtent-length\0\0\0\0\x019\0body";

    let record = Record::decode(&StoredResponse::new(1, &length[..])).unwrap();

    assert_eq!(told(&record), "status 200\nbody body\n");
}

fn stored(input: &[u8]) -> Option<StoredResponse> {
    let (format, bytes) = input.split_first_chunk()?;
    Some(StoredResponse::new(
        u16::from_be_bytes(*format),
        bytes.to_vec(),
    ))
}

fn read_again(record: &Record) -> Record {
    Record::decode(&record.encode()).unwrap()
}

fn decode_within_bounds(stored: &StoredResponse) -> Result<Record, UnreadableRecord> {
    let mut decoded = Err(UnreadableRecord::Content);
    let allocated = allocation_counter::measure(|| decoded = Record::decode(stored));

    let headers = stored.bytes().len() as u64 / SHORTEST_HEADER;
    let most = 4_096 + MOST_PER_HEADER * headers + 2 * stored.bytes().len() as u64;
    assert!(
        allocated.bytes_total <= most,
        "{} bytes allocated for {}",
        allocated.bytes_total,
        stored.bytes().len()
    );
    decoded
}

type Answer = (response::Parts, Bytes, Option<HeaderMap>);

/// The layer's answer to a request whose operation has been completed with this.
fn replay(stored: &StoredResponse) -> Answer {
    let request = Request::post("/charges")
        .header("idempotency-key", "k")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let handler = service_fn(
        async |_: Request<CapturedBody<Empty<Bytes>>>| -> Result<http::Response<Empty<Bytes>>, Infallible> {
            panic!("a completed operation was executed")
        },
    );

    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async {
            let store = MemoryStore::default();
            complete(&store, &request, stored).await;
            let layer = IdempotencyLayer::at_most_once(store, scope::shared()).unwrap();
            let response = layer.layer(handler).oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap();
            let trailers = body.trailers().cloned();
            (head, body.to_bytes(), trailers)
        })
}

async fn complete(store: &MemoryStore, request: &Request<Empty<Bytes>>, stored: &StoredResponse) {
    let scope = digest::scope("default", &scope::Principal::shared());
    let key = digest::key(&scope, &IdempotencyKey::parse(b"k").unwrap());
    let recipe = Recipe {
        headers: Vec::new(),
        material: None,
    };
    let (parts, ()) = request.clone().map(|_| ()).into_parts();
    let terms = Terms {
        owner: OwnerId::from_bytes([1; 16]),
        fingerprint: recipe.fingerprint(&parts, &Bytes::new()),
        promise: Promise::AtMostOnce,
        lease: Duration::from_secs(60),
        retention: Duration::from_secs(3_600),
    };
    let begun = store.begin(&key, &terms).await.unwrap();
    let Begin::Claimed(claim) = begun else {
        panic!("an empty store says {begun:?}");
    };
    let completed = store.complete(&claim, stored).await.unwrap();
    assert_eq!(completed, Transition::Applied);
}

fn assert_refused(head: &response::Parts, body: &Bytes, code: &str) {
    assert_own(&head.headers, &["retry-after"]);
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!(problem["code"], code);
    assert_eq!(problem["status"], head.status.as_u16());
}

/// The fields are an answer's own, but for the others.
fn assert_own(fields: &HeaderMap, others: &[&str]) {
    for name in fields.keys().map(HeaderName::as_str) {
        assert!(others.contains(&name) || !never_stored(name), "{name}");
    }
}

/// Lines of `name: value`; after an empty line those of the trailers. What is not a field is left out.
fn fields(input: &[u8]) -> (HeaderMap, Option<HeaderMap>) {
    let mut headers = HeaderMap::new();
    let mut trailers = None;
    for line in input.split(|&byte| byte == b'\n') {
        if line.is_empty() {
            trailers.get_or_insert_default();
            continue;
        }
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let name = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            trailers
                .as_mut()
                .unwrap_or(&mut headers)
                .append(name, value);
        }
    }
    (headers, trailers)
}

type Field = (String, Vec<u8>);

fn listed(fields: &HeaderMap) -> Vec<Field> {
    fields
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// What of the fields is to be kept, found the slow way. What announces the trailers stands last.
fn own(fields: &HeaderMap, headers: &HeaderMap, announced: Option<&str>) -> Vec<Field> {
    let mut hops: Vec<Vec<u8>> = Vec::new();
    for (name, value) in listed(headers) {
        if name == "connection" {
            let mut token = Vec::new();
            for byte in value.into_iter().chain([b',']) {
                match byte {
                    b',' => hops.push(std::mem::take(&mut token)),
                    b' ' | b'\t' if token.is_empty() => {}
                    byte => token.push(byte.to_ascii_lowercase()),
                }
            }
        }
    }
    for hop in &mut hops {
        while matches!(hop.last(), Some(b' ' | b'\t')) {
            hop.pop();
        }
    }

    let (announcing, rest): (Vec<_>, Vec<_>) = listed(fields)
        .into_iter()
        .partition(|(name, _)| Some(name.as_str()) == announced);
    let kept = rest
        .into_iter()
        .filter(|(name, _)| !never_stored(name) && !hops.iter().any(|hop| hop == name.as_bytes()));
    kept.chain(announcing).collect()
}

/// The list of idempotency I9, written a second time.
fn never_stored(name: &str) -> bool {
    const NAMES: &str = "age alt-svc authentication-info baggage clear-site-data connection content-length date \
        idempotent-replayed idempotent-stored keep-alive nel report-to reporting-endpoints retry-after server-timing \
        set-cookie te traceparent tracestate trailer transfer-encoding upgrade via www-authenticate x-amzn-trace-id \
        x-b3-spanid x-b3-traceid x-cloud-trace-context x-correlation-id x-request-id";

    NAMES.split_whitespace().any(|never| never == name)
        || ["access-control-", "proxy-", "ratelimit", "x-ratelimit"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// The record in words, one line for each thing that it holds.
fn told(record: &Record) -> String {
    let mut text = String::new();
    let mut tell = |line: String| writeln!(text, "{line}").unwrap();
    match record {
        Record::Whole {
            status,
            headers,
            trailers,
            body,
        } => {
            tell(format!("status {}", status.as_u16()));
            for field in headers {
                tell(format!("header {}", field_told(field)));
            }
            if let Some(trailers) = trailers {
                tell(format!("trailers {}", trailers.len()));
                for field in trailers {
                    tell(format!("trailer {}", field_told(field)));
                }
            }
            tell(format!("body {}", body.escape_ascii()));
        }
        Record::Tombstone { status, location } => {
            tell(format!("tombstone of status {}", status.as_u16()));
            if let Some(location) = location {
                tell(format!("location {}", location.as_bytes().escape_ascii()));
            }
        }
    }
    text
}

fn field_told((name, value): (&HeaderName, &HeaderValue)) -> String {
    let mark = if value.is_sensitive() {
        " (sensitive)"
    } else {
        ""
    };
    format!("{name}{mark}: {}", value.as_bytes().escape_ascii())
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    files(&beside().join("__fuzz__").join(target).join("corpus"))
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn beside() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record")
}
