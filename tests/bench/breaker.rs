//! What a breaker costs while its destination is in good health, and what a rejection costs, beside other breakers.

mod peers;
mod sides;

use std::fmt::Write as _;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use tower::util::BoxCloneSyncService;

use self::sides::{Incoming, Inner};
use crate::{
    BoxError, Report,
    calls::{Cost, Costs, compare},
    options::Options,
    services::{Answer, Instantly},
};

/// The places of sides in what [`sides::closed`] compares.
const OURS: [usize; 3] = [1, 2, 3];
const RESILIENCE: usize = 6;

/// So many times less than tower-resilience is a breaker to add whose destination is in good health, and whose rule reads no clock.
const TIMES_LESS: f64 = 5.0;

pub(crate) fn run(options: &Options) -> Result<Report, BoxError> {
    let mut costs = Costs::new();
    let mut missed = Vec::new();
    let mut ratios = String::new();
    for threads in [1, 2] {
        for boxed in [false, true] {
            let service = Instantly { answer };
            let (name, compared) = if boxed {
                let service = BoxCloneSyncService::<Incoming, _, _>::new(service);
                ("boxed", closed(options, threads, &service)?)
            } else {
                ("plain", closed(options, threads, &service)?)
            };
            let many = if threads == 1 { "thread" } else { "threads" };
            let name = format!("closed, {name} inner, {threads} {many}");
            costs.add(&name, &compared);
            for ours in OURS {
                let allocations = compared[ours].added_allocations();
                if allocations != 0.0 {
                    missed.push(format!("{name}: {allocations} allocations instead of none"));
                }
            }
            let theirs = compared[RESILIENCE].added_nanoseconds();
            let times = OURS.map(|ours| theirs / compared[ours].added_nanoseconds());
            writeln!(
                ratios,
                "{name}: tower-resilience adds {:.1} times what a run of failures adds, {:.1} times of a window of calls, {:.1} times of the default",
                times[0], times[1], times[2]
            )?;
            // What ours adds may be lost in the noise, and below nothing.
            if boxed && theirs < TIMES_LESS * compared[OURS[0]].added_nanoseconds() {
                missed.push(format!(
                    "{name}: {:.1} times less than tower-resilience",
                    times[0]
                ));
            }
        }
        let many = if threads == 1 { "thread" } else { "threads" };
        let sides = sides::open(threads, get)?;
        costs.add(
            &format!("open, {threads} {many}"),
            &compare(options, threads, &sides),
        );
    }

    let mut text = format!(
        "## breaker: calls that succeed at once, and calls that are rejected\n\n\
         `steadfast` is `CircuitBreakerLayer::http` with the rule that is named; its default has a run of failures and a window of\n\
         time, for which the clock is read. tower-resilience has its defaults, a window of calls among them; failsafe and recloser\n\
         are no layers, look only at errors, and are wrapped around the future of the inner service. One thread polls its calls by\n\
         hand; of two, which share one breaker, each has a runtime, since tower-resilience's has an asynchronous lock.\n\
         A rejection of `http` is a response with problem details, the others are errors. ns of a call in each thread.\n\n\
         {costs}\n{ratios}"
    );
    if options.quick {
        return Ok(Report::of(text));
    }
    let verdict = if missed.is_empty() { "met" } else { "missed" };
    writeln!(
        text,
        "\nThe bar is {verdict}. No allocation while closed; over a boxed inner service a run of failures adds {TIMES_LESS} times less\n\
         than tower-resilience."
    )?;
    let missed = (!missed.is_empty()).then(|| missed.join("; "));
    Ok(Report { text, missed })
}

fn closed<S: Inner>(options: &Options, threads: usize, service: &S) -> Result<Vec<Cost>, BoxError> {
    Ok(compare(
        options,
        threads,
        &sides::closed(threads, service, get)?,
    ))
}

fn get() -> Incoming {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static("/orders/8c5e1f40");
    request
}

fn answer() -> Answer {
    Response::new(Full::new(Bytes::from_static(b"answer")))
}
