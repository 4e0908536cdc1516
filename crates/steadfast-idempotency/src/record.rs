//! The stored form of an answer. Stores do not read it; every version of this crate reads every format before its own.

use std::{collections::BTreeSet, error::Error, fmt};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use steadfast_http::{
    grpc,
    header::{IDEMPOTENT_REPLAYED, IDEMPOTENT_STORED},
};
use steadfast_store::StoredResponse;

const FORMAT: u16 = 1;

/// An answer as it is kept.
///
/// Format 1, all numbers big-endian: kind (u8), status (u16), headers, and for a whole answer trailers and body. Headers are
/// their count (u32), then for each the name, with its length (u32) in front, whether the value is sensitive (u8), and the value,
/// with its length (u32) in front; trailers are a flag (u8) and, if it is 1, headers; the body is the rest.
///
/// What is never stored is left out on reading too: an older version may not have known that it is, and a damaged record must not
/// speak about the connection that it is replayed on.
#[derive(Clone, PartialEq)]
pub(crate) enum Record {
    /// The whole answer.
    Whole {
        status: StatusCode,
        headers: HeaderMap,
        trailers: Option<HeaderMap>,
        body: Bytes,
    },
    /// The answer was too large, or endless: its status, and where the thing it made is.
    Tombstone {
        status: StatusCode,
        location: Option<HeaderValue>,
    },
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, status) = match self {
            Self::Whole { status, .. } => ("whole", status),
            Self::Tombstone { status, .. } => ("tombstone", status),
        };
        f.debug_struct("Record")
            .field("kind", &kind)
            .field("status", status)
            .finish_non_exhaustive()
    }
}

const WHOLE: u8 = 0;
const TOMBSTONE: u8 = 1;

impl Record {
    pub(crate) fn whole(head: &response::Parts, body: Bytes, trailers: Option<HeaderMap>) -> Self {
        // No answer ends with an informational status: what came after it is not here to be kept.
        if head.status.is_informational() {
            return Self::tombstone(head);
        }
        let hops = named_by_connection(&head.headers);
        let mut headers = kept(&head.headers, &hops);
        let trailers = trailers.as_ref().map(|trailers| kept(trailers, &hops));
        if trailers.is_some() {
            // HTTP/1 sends only the trailers that it announced.
            for names in head.headers.get_all(header::TRAILER) {
                headers.append(header::TRAILER, names.clone());
            }
        }
        Self::Whole {
            status: head.status,
            headers,
            trailers,
            body,
        }
    }

    /// The answer as it is given to those who joined its execution, and never stored: with what it says of this moment.
    pub(crate) fn of_the_moment(
        head: &response::Parts,
        body: Bytes,
        trailers: Option<HeaderMap>,
    ) -> Self {
        let told = trailers.clone().unwrap_or_default();
        let mut record = Self::whole(head, body, trailers);
        if let Self::Whole {
            headers, trailers, ..
        } = &mut record
        {
            let hops = named_by_connection(&head.headers);
            add_of_the_moment(headers, &head.headers, &hops);
            if let Some(trailers) = trailers {
                add_of_the_moment(trailers, &told, &hops);
            }
        }
        record
    }

    pub(crate) fn tombstone(head: &response::Parts) -> Self {
        Self::Tombstone {
            status: head.status,
            location: head.headers.get(header::LOCATION).cloned(),
        }
    }

    /// What is left of the answer when it is too large for the store.
    pub(crate) fn without_body(&self) -> Self {
        match self {
            Self::Whole {
                status, headers, ..
            } => Self::Tombstone {
                status: *status,
                location: headers.get(header::LOCATION).cloned(),
            },
            Self::Tombstone { .. } => self.clone(),
        }
    }

    pub(crate) fn encode(&self) -> StoredResponse {
        let mut bytes = BytesMut::new();
        match self {
            Self::Whole {
                status,
                headers,
                trailers,
                body,
            } => {
                bytes.reserve(body.len() + 64 * headers.len());
                bytes.put_u8(WHOLE);
                bytes.put_u16(status.as_u16());
                put_headers(&mut bytes, headers);
                match trailers {
                    Some(trailers) => {
                        bytes.put_u8(1);
                        put_headers(&mut bytes, trailers);
                    }
                    None => bytes.put_u8(0),
                }
                bytes.put_slice(body);
            }
            Self::Tombstone { status, location } => {
                bytes.put_u8(TOMBSTONE);
                bytes.put_u16(status.as_u16());
                let mut headers = HeaderMap::new();
                if let Some(location) = location {
                    headers.insert(header::LOCATION, location.clone());
                }
                put_headers(&mut bytes, &headers);
            }
        }
        StoredResponse::new(FORMAT, bytes.freeze())
    }

    pub(crate) fn decode(stored: &StoredResponse) -> Result<Self, UnreadableRecord> {
        if stored.format() != FORMAT {
            return Err(UnreadableRecord::Format(stored.format()));
        }
        let mut bytes = stored.bytes().clone();
        let kind = bytes.try_get_u8()?;
        let status = StatusCode::from_u16(bytes.try_get_u16()?)?;
        let mut headers = get_headers(&mut bytes)?;
        match kind {
            WHOLE if !status.is_informational() => {
                let trailers = match bytes.try_get_u8()? {
                    0 => {
                        headers.remove(header::TRAILER);
                        None
                    }
                    1 => {
                        let mut trailers = get_headers(&mut bytes)?;
                        trailers.remove(header::TRAILER);
                        Some(trailers)
                    }
                    _ => return Err(UnreadableRecord::Content),
                };
                // The mark of a replay has to fit in.
                headers
                    .try_reserve(1)
                    .map_err(|_| UnreadableRecord::Content)?;
                Ok(Self::Whole {
                    status,
                    headers,
                    trailers,
                    body: bytes,
                })
            }
            TOMBSTONE if bytes.is_empty() => Ok(Self::Tombstone {
                status,
                location: headers.remove(header::LOCATION),
            }),
            _ => Err(UnreadableRecord::Content),
        }
    }
}

fn put_headers(bytes: &mut BytesMut, headers: &HeaderMap) {
    bytes.put_u32(length(headers.len()));
    for (name, value) in headers {
        bytes.put_u32(length(name.as_str().len()));
        bytes.put_slice(name.as_str().as_bytes());
        bytes.put_u8(value.is_sensitive().into());
        bytes.put_u32(length(value.len()));
        bytes.put_slice(value.as_bytes());
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("http bounds a header map below 2^16 names and far below 4 GiB")
}

fn get_headers(bytes: &mut Bytes) -> Result<HeaderMap, UnreadableRecord> {
    let count = bytes.try_get_u32()?;
    let mut headers = HeaderMap::new();
    for _ in 0..count {
        let name = HeaderName::from_bytes(&get_slice(bytes)?)?;
        let sensitive = match bytes.try_get_u8()? {
            0 => false,
            1 => true,
            _ => return Err(UnreadableRecord::Content),
        };
        let mut value = HeaderValue::from_maybe_shared(get_slice(bytes)?)?;
        value.set_sensitive(sensitive);
        if name == header::TRAILER || !is_never_stored(&name) {
            headers
                .try_append(name, value)
                .map_err(|_| UnreadableRecord::Content)?;
        }
    }
    Ok(headers)
}

fn get_slice(bytes: &mut Bytes) -> Result<Bytes, UnreadableRecord> {
    let length = bytes.try_get_u32()? as usize;
    if length > bytes.len() {
        return Err(UnreadableRecord::Content);
    }
    Ok(bytes.split_to(length))
}

/// A stored answer that this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnreadableRecord {
    Content,
    Format(u16),
}

impl fmt::Display for UnreadableRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content => f.write_str("the stored answer is damaged"),
            Self::Format(format) => write!(f, "the stored answer has the unknown format {format}"),
        }
    }
}

impl Error for UnreadableRecord {}

macro_rules! damaged {
    ($($error:ty),*) => {
        $(impl From<$error> for UnreadableRecord {
            fn from(_: $error) -> Self {
                Self::Content
            }
        })*
    };
}

damaged!(
    bytes::TryGetError,
    http::status::InvalidStatusCode,
    header::InvalidHeaderName,
    header::InvalidHeaderValue
);

/// The headers that belong to the answer and not to the connection, the moment, the session or the caller that got it first.
fn kept(headers: &HeaderMap, hops: &BTreeSet<Vec<u8>>) -> HeaderMap {
    // Not `len`: it counts every value, and may be more than a map can hold as names.
    let mut kept = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        if !is_never_stored(name) && !hops.contains(name.as_str().as_bytes()) {
            kept.append(name, value.clone());
        }
    }
    kept
}

fn add_of_the_moment(to: &mut HeaderMap, from: &HeaderMap, hops: &BTreeSet<Vec<u8>>) {
    for (name, value) in from {
        if is_of_the_moment(name) && !hops.contains(name.as_str().as_bytes()) {
            to.append(name, value.clone());
        }
    }
}

/// What the connection calls its own, headers and trailers alike (RFC 9110 section 7.6.1), in lower case.
fn named_by_connection(headers: &HeaderMap) -> BTreeSet<Vec<u8>> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .collect()
}

/// Whether a header belongs to an answer that is not kept as much as its status: without it a pending answer reads as a final one.
fn is_of_the_moment(name: &HeaderName) -> bool {
    *name == header::RETRY_AFTER
        || *name == header::WWW_AUTHENTICATE
        || *name == grpc::RETRY_PUSHBACK
        || ["ratelimit", "x-ratelimit"]
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
}

fn is_never_stored(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 4] = ["access-control-", "proxy-", "ratelimit", "x-ratelimit"];
    static NAMES: [HeaderName; 36] = [
        header::AGE,
        header::ALT_SVC,
        header::CONNECTION,
        // The body's own length says it again.
        header::CONTENT_LENGTH,
        header::DATE,
        header::RETRY_AFTER,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::VIA,
        header::WWW_AUTHENTICATE,
        HeaderName::from_static("authentication-info"),
        HeaderName::from_static("baggage"),
        HeaderName::from_static("clear-site-data"),
        HeaderName::from_static("endpoint-load-metrics-bin"),
        grpc::RETRY_PUSHBACK,
        HeaderName::from_static("grpc-server-stats-bin"),
        HeaderName::from_static("grpc-tags-bin"),
        HeaderName::from_static("grpc-trace-bin"),
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("nel"),
        HeaderName::from_static("report-to"),
        HeaderName::from_static("reporting-endpoints"),
        HeaderName::from_static("server-timing"),
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
        HeaderName::from_static("x-amzn-trace-id"),
        HeaderName::from_static("x-b3-spanid"),
        HeaderName::from_static("x-b3-traceid"),
        HeaderName::from_static("x-cloud-trace-context"),
        HeaderName::from_static("x-correlation-id"),
        HeaderName::from_static("x-request-id"),
        IDEMPOTENT_REPLAYED,
        IDEMPOTENT_STORED,
    ];

    NAMES.contains(name)
        || PREFIXES
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use http::Response;
    use proptest::prelude::*;

    use super::*;

    fn head(headers: &[(&str, &[u8])]) -> response::Parts {
        let mut response = Response::builder().status(201);
        for (name, value) in headers {
            response = response.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        response.body(()).unwrap().into_parts().0
    }

    fn read_again(record: &Record) -> Record {
        Record::decode(&record.encode()).unwrap()
    }

    #[test]
    fn a_whole_answer_survives_its_stored_form() {
        let head = head(&[
            ("x-a", b"1"),
            ("x-b", b"\xff\xfe"),
            ("x-a", b"2"),
            ("x-empty", b""),
        ]);
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("7"));

        for trailers in [None, Some(trailers), Some(HeaderMap::new())] {
            let record = Record::whole(&head, Bytes::from_static(b"body"), trailers);
            assert_eq!(read_again(&record), record);
        }
    }

    #[test]
    fn a_sensitive_value_stays_so() {
        let mut head = head(&[]);
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        head.headers.insert("x-token", secret);

        let record = Record::whole(&head, Bytes::new(), None);

        let Record::Whole { headers, .. } = read_again(&record) else {
            panic!("the record lost its body");
        };
        assert!(headers["x-token"].is_sensitive());
        assert!(!format!("{record:?}").contains("secret"));
    }

    #[test]
    fn trailers_are_announced_again_and_filtered_like_headers() {
        let head = head(&[("trailer", b"checksum")]);
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("7"));
        trailers.insert("set-cookie", HeaderValue::from_static("a=b"));

        let Record::Whole {
            headers,
            trailers: Some(trailers),
            ..
        } = Record::whole(&head, Bytes::new(), Some(trailers))
        else {
            panic!("the record lost its trailers");
        };

        assert_eq!(headers["trailer"], "checksum");
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["checksum"], "7");
    }

    #[test]
    fn a_tombstone_survives_its_stored_form() {
        let with_location = Record::tombstone(&head(&[("location", b"/charges/1")]));
        let without = Record::tombstone(&head(&[]));

        assert_eq!(read_again(&with_location), with_location);
        assert_eq!(read_again(&without), without);
    }

    /// Records live for days: what this version wrote, every later one must read.
    #[test]
    fn format_1_stays_what_it_is() {
        let mut trailers = HeaderMap::new();
        trailers.insert("t", HeaderValue::from_static("v"));
        let record = Record::whole(
            &head(&[("x-a", b"1")]),
            Bytes::from_static(b"hi"),
            Some(trailers),
        );

        let stored = record.encode();

        let bytes =
            b"\0\0\xc9\0\0\0\x01\0\0\0\x03x-a\0\0\0\0\x011\x01\0\0\0\x01\0\0\0\x01t\0\0\0\0\x01vhi";
        assert_eq!(stored.format(), 1);
        assert_eq!(stored.bytes().as_ref(), bytes);
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let stored = StoredResponse::new(2, "anything");

        assert_eq!(Record::decode(&stored), Err(UnreadableRecord::Format(2)));
    }

    #[test]
    fn a_record_that_was_cut_short_is_refused_up_to_its_body() {
        let record = Record::whole(&head(&[("x-a", b"1")]), Bytes::new(), None);
        let bytes = record.encode().bytes().clone();

        for end in 0..bytes.len() {
            let cut = StoredResponse::new(FORMAT, bytes.slice(..end));
            assert_eq!(
                Record::decode(&cut),
                Err(UnreadableRecord::Content),
                "{end}"
            );
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Record::decode(&StoredResponse::new(FORMAT, bytes));
        }

        #[test]
        fn a_damaged_record_never_panics(at in 0..64_usize, byte: u8) {
            let record = Record::whole(
                &head(&[("x-a", b"1"), ("location", b"/charges/1")]),
                Bytes::from_static(b"body"),
                Some(HeaderMap::new()),
            );
            let mut bytes = record.encode().bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Record::decode(&StoredResponse::new(FORMAT, bytes));
        }
    }
}
