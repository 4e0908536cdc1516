//! Nanoseconds and allocations of a call, without a socket in the way.
//!
//! Each side of a comparison sets its state up anew in each round, warms up, and is timed; the first side is the base. What
//! another side adds is its figure less the base's of the same round.

use std::{
    fmt,
    future::{Future, poll_fn},
    hint::black_box,
    pin::pin,
    sync::Barrier,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use allocation_counter::{measure, opt_out};
use tokio::{runtime::Runtime, task::yield_now, time::Instant};
use tower::Service;

use crate::{options::Options, spread::Spread, table::Table};

/// One thread's use of a service.
pub(crate) trait Caller {
    /// Makes so many calls, one after the other.
    fn call(&mut self, times: u64);
}

/// Makes one thread's caller. Those of one round share what the round has set up.
type Round = Box<dyn Fn() -> Box<dyn Caller> + Send + Sync>;

/// What is compared.
pub(crate) struct Side {
    name: &'static str,
    set_up: Box<dyn Fn() -> Round>,
}

impl Side {
    /// `set_up` makes the state of one round, and of it the callers, one for each thread.
    pub(crate) fn new<R, C>(name: &'static str, set_up: impl Fn() -> R + 'static) -> Self
    where
        R: Fn() -> C + Send + Sync + 'static,
        C: Caller + 'static,
    {
        Self {
            name,
            set_up: Box::new(move || {
                let round = set_up();
                Box::new(move || Box::new(round()))
            }),
        }
    }
}

/// Calls a service that is ready and answers at once, polled by hand.
pub(crate) struct Polled<S, F> {
    pub(crate) service: S,
    pub(crate) request: F,
}

impl<S, F, R> Caller for Polled<S, F>
where
    F: FnMut() -> R,
    S: Service<R>,
{
    fn call(&mut self, times: u64) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..times {
            let request = (self.request)();
            let Poll::Ready(Ok(())) = self.service.poll_ready(&mut cx) else {
                panic!("the service is not ready");
            };
            let answer = pin!(self.service.call(request));
            let Poll::Ready(Ok(answer)) = answer.poll(&mut cx) else {
                panic!("the service does not answer at once");
            };
            black_box(answer);
        }
    }
}

/// Calls a service on a runtime of this thread. Between two calls the runtime has a turn, in which what the call left behind ends.
pub(crate) struct OnRuntime<S, F> {
    runtime: Runtime,
    service: S,
    request: F,
}

impl<S, F> OnRuntime<S, F> {
    pub(crate) fn new(service: S, request: F) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O asks nothing of the system");
        Self {
            runtime,
            service,
            request,
        }
    }
}

impl<S, F, R> Caller for OnRuntime<S, F>
where
    F: FnMut() -> R,
    S: Service<R>,
{
    fn call(&mut self, times: u64) {
        let Self {
            runtime,
            service,
            request,
        } = self;
        runtime.block_on(async {
            for _ in 0..times {
                let request = request();
                if poll_fn(|cx| service.poll_ready(cx)).await.is_err() {
                    panic!("the service failed");
                }
                let Ok(answer) = service.call(request).await else {
                    panic!("the service failed");
                };
                black_box(answer);
                yield_now().await;
            }
        });
    }
}

/// What one side costs.
pub(crate) struct Cost {
    name: &'static str,
    /// Of a call.
    nanoseconds: Spread,
    /// Less the base's of the same round.
    added_nanoseconds: Spread,
    allocated: Allocated,
    /// Less the base's.
    added: Allocated,
}

/// On the heap, by one call.
#[derive(Clone, Copy)]
struct Allocated {
    times: f64,
    bytes: f64,
}

impl Cost {
    /// Nanoseconds of a call that the base does not take: the median of the rounds.
    pub(crate) const fn added_nanoseconds(&self) -> f64 {
        self.added_nanoseconds.median
    }

    /// Allocations of a call that the base does not make.
    pub(crate) const fn added_allocations(&self) -> f64 {
        self.added.times
    }
}

/// Measures all sides in turns, each in so many threads at once; the first is the base.
///
/// # Panics
///
/// If there is no side, or a caller panics.
pub(crate) fn compare(options: &Options, threads: usize, sides: &[Side]) -> Vec<Cost> {
    let allocated: Vec<_> = sides.iter().map(allocated).collect();
    let slowest = sides.iter().map(|side| time(side, 1, ESTIMATE)).max();
    let slowest = slowest.expect("there is a side") / ESTIMATE as u32;
    let turn = options.point / TURNS_IN_A_POINT;
    let calls = (turn.as_nanos() / slowest.as_nanos().max(1)).max(1) as u64;

    let rounds = if options.quick { 3 } else { 51 };
    let mut figures = vec![Vec::with_capacity(rounds); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            // Nobody always comes first.
            let side = (turn + round) % sides.len();
            let took = time(&sides[side], threads, calls);
            figures[side].push(took.as_nanos() as f64 / calls as f64);
        }
    }

    sides
        .iter()
        .zip(&figures)
        .zip(allocated.iter().copied())
        .map(|((side, own), own_allocated)| Cost {
            name: side.name,
            nanoseconds: Spread::of(own.iter().copied()),
            added_nanoseconds: Spread::of(
                own.iter().zip(&figures[0]).map(|(own, base)| own - base),
            ),
            allocated: own_allocated,
            added: Allocated {
                times: own_allocated.times - allocated[0].times,
                bytes: own_allocated.bytes - allocated[0].bytes,
            },
        })
        .collect()
}

/// Calls that tell how many a turn has, and those whose allocations are counted.
const ESTIMATE: u64 = 1_000;

/// With a point of one second, a turn of ten milliseconds: longer than what the scheduler takes away at a time.
const TURNS_IN_A_POINT: u32 = 100;

/// The mean time of the threads, each of which makes all the calls.
fn time(side: &Side, threads: usize, calls: u64) -> Duration {
    let make = (side.set_up)();
    let together = Barrier::new(threads);
    let in_one_thread = || {
        let mut caller = make();
        let mut took = Duration::ZERO;
        // Counting costs time.
        opt_out(|| {
            caller.call(calls / 10 + 1);
            together.wait();
            let started = Instant::now();
            caller.call(calls);
            took = started.elapsed();
        });
        took
    };
    let total: Duration = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(in_one_thread)).collect();
        let times = threads.into_iter().map(|thread| {
            thread
                .join()
                .expect("a caller panics only where the bench itself is wrong")
        });
        times.sum()
    });
    total / threads as u32
}

/// Counts in a service that is warm, so that what it makes once is left out.
fn allocated(side: &Side) -> Allocated {
    let make = (side.set_up)();
    let mut caller = make();
    caller.call(ESTIMATE);
    let counted = measure(|| caller.call(ESTIMATE));
    Allocated {
        times: counted.count_total as f64 / ESTIMATE as f64,
        bytes: counted.bytes_total as f64 / ESTIMATE as f64,
    }
}

/// A table of comparisons, a row for each side.
pub(crate) struct Costs(Table<7>);

impl Costs {
    pub(crate) fn new() -> Self {
        Self(Table::new(
            2,
            [
                "request",
                "side",
                "ns",
                "added ns (min to max)",
                "allocations",
                "added",
                "added bytes",
            ],
        ))
    }

    /// Adds a comparison.
    pub(crate) fn add(&mut self, request: &str, costs: &[Cost]) {
        for (index, cost) in costs.iter().enumerate() {
            let added = |shown: String| {
                if index == 0 { String::new() } else { shown }
            };
            self.0.row([
                request.to_owned(),
                cost.name.to_owned(),
                cost.nanoseconds.middle(1),
                added(cost.added_nanoseconds.whole(1)),
                format!("{:.2}", cost.allocated.times),
                added(format!("{:.2}", cost.added.times)),
                added(format!("{:.0}", cost.added.bytes)),
            ]);
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
