//! What all layers of a client cost together, over a socket, beside the client alone.

mod neighbour;
mod sides;

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use self::{neighbour::Neighbour, sides::Incoming};
use crate::{
    BoxError, Report,
    calls::{Costs, compare},
    options::Options,
};

/// A kind of request.
struct Kind {
    name: &'static str,
    request: fn(&Uri) -> Incoming,
    /// What the whole stack may allocate in a call, beyond the client alone.
    allocations: f64,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "GET",
        request: get,
        // The copy of a head with two headers, which another attempt would need: 2; the deadline, which layers beneath look at, as
        // the first extension: 3; the timer: 1.
        allocations: 6.0,
    },
    Kind {
        name: "POST of 150 bytes with a key",
        request: post,
        // That, what attempts share of the body: 1, and the key: its text, its header, and its mark, of which the first attempt and
        // what is kept have one each.
        allocations: 11.0,
    },
];

/// A read of the connection more or less now and then is hyper's.
const TOLERANCE: f64 = 0.2;

pub(crate) fn run(options: &Options) -> Result<Report, BoxError> {
    let neighbour = Neighbour::start()?;
    let mut costs = Costs::new();
    let mut missed = Vec::new();
    for kind in &KINDS {
        let compared = compare(options, 1, &sides::all(&neighbour, kind.request)?);
        costs.add(kind.name, &compared);
        let whole = compared.last().ok_or("there are sides")?;
        let added = whole.added_allocations();
        if added > kind.allocations + TOLERANCE {
            missed.push(format!(
                "{}: {added} allocations instead of {}",
                kind.name, kind.allocations
            ));
        }
    }

    let mut text = format!(
        "## stack: the layers of a client, over loopback HTTP/1.1\n\n\
         hyper-util's client with one connection, in one thread; the server, hyper alone, has another, whose allocations are not\n\
         counted. Each side has the layers of those above it, and one more.\n\n\
         {costs}\n"
    );
    if options.quick {
        return Ok(Report::of(text));
    }
    let verdict = if missed.is_empty() { "met" } else { "missed" };
    writeln!(
        text,
        "The bar is {verdict}. The whole stack allocates at most {} times in a GET and {} times in a POST with a key.",
        KINDS[0].allocations, KINDS[1].allocations
    )?;
    let missed = (!missed.is_empty()).then(|| missed.join("; "));
    Ok(Report { text, missed })
}

fn get(uri: &Uri) -> Incoming {
    request(Method::GET, uri, Bytes::new())
}

fn post(uri: &Uri) -> Incoming {
    request(Method::POST, uri, Bytes::from_static(&[b'x'; 150]))
}

/// With the headers that most have.
fn request(method: Method, uri: &Uri, body: Bytes) -> Incoming {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        header::AUTHORIZATION,
        HeaderValue::from_static("Bearer sk_test_4eC39HqLyjWDarjtT1zdp7dc"),
    );
    request
}
