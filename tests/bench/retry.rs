//! What retries cost while nothing fails, beside other layers that retry.

mod sides;

use std::{fmt::Write as _, hint::black_box};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;

use self::sides::{Beneath, Incoming, Inner, Replayed};
use crate::{
    BoxError, Report,
    calls::{Caller, Costs, Side, compare},
    options::Options,
    services::{Answer, Instantly, Reading},
};

/// A kind of request.
struct Kind {
    name: &'static str,
    request: fn() -> Incoming,
    /// What our layer may allocate.
    allocations: f64,
    /// Whether tower's retry does the same work: it copies a body that is there as a whole, and can do nothing for any other.
    compares: bool,
}

const GET: Kind = Kind {
    name: "GET",
    request: get,
    allocations: 0.0,
    compares: true,
};

const HEADERS: Kind = Kind {
    name: "GET with 8 headers",
    request: get_with_headers,
    // The copy of the head.
    allocations: 2.0,
    compares: true,
};

const POST: Kind = Kind {
    name: "POST of 150 bytes",
    request: post,
    // What the attempts share.
    allocations: 1.0,
    compares: false,
};

const UNREPEATABLE: &str = "POST, not to be retried";

/// More than nothing, and less than the body has.
const SMALL_LIMIT: usize = 100;

/// How much more than tower's retry with its budget ours may add. Both copy the head, read a clock and write to a budget; ours also
/// changes the types of both bodies, tells metrics and spans, and classifies the response.
const MOST: f64 = 1.5;

pub(crate) fn run(options: &Options) -> Result<Report, BoxError> {
    let mut found = Found::new();
    for threads in [1, 2] {
        for boxed in [false, true] {
            for kind in [&GET, &HEADERS] {
                let answers = Instantly { answer };
                found.of_kind(options, &Place { threads, boxed }, kind, answers);
            }
            let reads = Reading { answer };
            found.of_kind(options, &Place { threads, boxed }, &POST, reads);
            found.of_unrepeatable(options, &Place { threads, boxed })?;
        }
    }
    let mut clock = Costs::new();
    clock.add("clock", &compare(options, 1, &clocks()));

    let mut text = format!(
        "## retry: requests that succeed at once\n\n\
         Every layer could send the request again, and need not. `steadfast` is `RetryLayer::http()`, with its budget, its metrics and\n\
         its span, for which nobody has installed a recorder or a subscriber. The trivial policy of tower copies the request and takes\n\
         every answer as a success; that with the budget is the one in the documentation of tower. tower-resilience has its defaults,\n\
         which are without a budget, metrics and spans. sqlx is in this program and turns on the feature `log` of tracing, which makes\n\
         a span dearer than in a program without it. The inner service answers at once, and is polled by hand; it reads the body of the\n\
         POST that could be retried. `boxed` is a `BoxCloneSyncService`. All threads share one service, and with it one budget. ns of a\n\
         call in each thread.\n\n\
         {}\n\
         The clock, which our layer reads once for each request that it may retry, and a release build of its users without the\n\
         feature `test-util` of tokio reads as `std` does:\n\n\
         {clock}",
        found.costs
    );
    if options.quick {
        return Ok(Report::of(text));
    }
    let verdict = if found.missed.is_empty() {
        "met"
    } else {
        "missed"
    };
    writeln!(
        text,
        "\nThe bar is {verdict}. No allocation without a body, and those of a copied head and a kept body; over a boxed inner service,\n\
         no more than {MOST} times of what tower with its budget adds to a GET."
    )?;
    let missed = found.missed.join("; ");
    let missed = (!missed.is_empty()).then_some(missed);
    Ok(Report { text, missed })
}

/// Where a comparison is made.
struct Place {
    threads: usize,
    boxed: bool,
}

impl Place {
    fn name(&self, request: &str) -> String {
        let Self { threads, boxed } = *self;
        let inner = if boxed { "boxed" } else { "plain" };
        let many = if threads == 1 { "thread" } else { "threads" };
        format!("{request}, {inner} inner, {threads} {many}")
    }
}

/// What was measured so far.
struct Found {
    costs: Costs,
    missed: Vec<String>,
}

impl Found {
    fn new() -> Self {
        Self {
            costs: Costs::new(),
            missed: Vec::new(),
        }
    }

    fn of_kind<S>(&mut self, options: &Options, place: &Place, kind: &Kind, service: S)
    where
        S: Inner<Incoming> + Inner<Replayed>,
    {
        let costs = if place.boxed {
            let sides = retried(&boxed(service), kind.request);
            compare(options, place.threads, &sides)
        } else {
            let sides = retried(&plain(service), kind.request);
            compare(options, place.threads, &sides)
        };
        let name = place.name(kind.name);
        let allocations = costs[OURS].added_allocations();
        if allocations > kind.allocations {
            let most = kind.allocations;
            self.missed.push(format!(
                "{name}: {allocations} allocations instead of {most}"
            ));
        }
        if place.boxed && kind.compares {
            let (ours, theirs) = (
                costs[OURS].added_nanoseconds(),
                costs[BUDGETED].added_nanoseconds(),
            );
            if ours > theirs * MOST {
                self.missed.push(format!(
                    "{name}: {ours:.1} ns, with tower's budget {theirs:.1} ns"
                ));
            }
        }
        self.costs.add(&name, &costs);
    }

    fn of_unrepeatable(&mut self, options: &Options, place: &Place) -> Result<(), BoxError> {
        let service = Instantly { answer };
        let costs = if place.boxed {
            let sides = unrepeatable(&boxed(service))?;
            compare(options, place.threads, &sides)
        } else {
            let sides = unrepeatable(&plain(service))?;
            compare(options, place.threads, &sides)
        };
        let name = place.name(UNREPEATABLE);
        for cost in &costs {
            let allocations = cost.added_allocations();
            if allocations != 0.0 {
                self.missed
                    .push(format!("{name}: {allocations} allocations instead of none"));
            }
        }
        self.costs.add(&name, &costs);
        Ok(())
    }
}

fn plain<S: Inner<Incoming> + Inner<Replayed>>(service: S) -> Beneath<S, S> {
    Beneath {
        bare: service.clone(),
        replayed: service,
    }
}

fn boxed<S>(service: S) -> Beneath<impl Inner<Incoming>, impl Inner<Replayed>>
where
    S: Inner<Incoming> + Inner<Replayed>,
{
    Beneath {
        bare: BoxCloneSyncService::<Incoming, _, _>::new(service.clone()),
        replayed: BoxCloneSyncService::<Replayed, _, _>::new(service),
    }
}

/// The places of sides in what [`retried`] compares.
const OURS: usize = 1;
const BUDGETED: usize = 3;

fn retried<B, R>(beneath: &Beneath<B, R>, request: fn() -> Incoming) -> [Side; 5]
where
    B: Inner<Incoming>,
    R: Inner<Replayed>,
{
    [
        beneath.bare(request),
        beneath.ours(request),
        beneath.trivial(request),
        beneath.budgeted(request),
        beneath.resilience(request),
    ]
}

/// What is sent on as it is, for each of the reasons.
fn unrepeatable<B, R>(beneath: &Beneath<B, R>) -> Result<[Side; 4], BoxError>
where
    B: Inner<Incoming>,
    R: Inner<Replayed>,
{
    Ok([
        beneath.bare(post),
        beneath.without_retries(post)?,
        beneath.with_limit(SMALL_LIMIT, post)?,
        beneath.without_budget(post)?,
    ])
}

fn get() -> Incoming {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static("/orders/8c5e1f40");
    request
}

fn get_with_headers() -> Incoming {
    const HEADERS: [(HeaderName, &str); 8] = [
        (header::HOST, "api.example.com"),
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_ENCODING, "gzip"),
        (header::ACCEPT_LANGUAGE, "en"),
        (header::AUTHORIZATION, "Bearer 0123456789abcdef"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERER, "https://example.com/"),
        (header::USER_AGENT, "client/1.0"),
    ];
    let mut request = get();
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    request
}

fn post() -> Incoming {
    let mut request = Request::new(Full::new(Bytes::from_static(&[b'x'; 150])));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/orders");
    request
}

fn answer() -> Answer {
    Response::new(Full::new(Bytes::from_static(b"answer")))
}

/// Reads a clock instead of calling a service.
struct Clock<F>(F);

impl<F: FnMut() -> T, T> Caller for Clock<F> {
    fn call(&mut self, times: u64) {
        for _ in 0..times {
            black_box((self.0)());
        }
    }
}

fn clocks() -> [Side; 2] {
    #[expect(
        clippy::disallowed_methods,
        reason = "what it costs is the question, and nobody is told the time"
    )]
    let std = || Clock(std::time::Instant::now);
    [
        Side::new("std", move || std),
        Side::new("tokio, with test-util", || || Clock(Instant::now)),
    ]
}
