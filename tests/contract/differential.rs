//! `RetryLayer` beside tower's own `Retry`: where both decide alike, and nothing waits, they do the same and answer the same.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    future::{Future, Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use steadfast::{
    core::verdict::{Cause, Failure, Hint, SafetyClass, Verdict},
    http::BoxError,
    retry::{Backoff, Jitter, Policy, RetryConfig, RetryLayer},
};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, retry};

const SCRIPTS: u64 = 3_000;
const MOST_ATTEMPTS: u64 = 5;
const CALLS: usize = 3;

/// What an outcome means, for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Success,
    Ignored,
    NotProcessed,
    Transient,
    Permanent,
    /// It would pass, but the server wants no other attempt.
    Stop,
}

const MEANINGS: [Meaning; 6] = [
    Meaning::Success,
    Meaning::Ignored,
    Meaning::NotProcessed,
    Meaning::Transient,
    Meaning::Permanent,
    Meaning::Stop,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reply {
    number: u64,
    meaning: Meaning,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Failed(Reply),
    Unready(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

/// A request that can be copied so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    number: usize,
    idempotent: bool,
    copies: u64,
}

impl Order {
    fn copy(self) -> Option<Self> {
        let copies = self.copies.checked_sub(1)?;
        Some(Self { copies, ..self })
    }
}

fn meaning(outcome: Result<&Reply, &Fault>) -> Meaning {
    match outcome {
        Ok(reply) | Err(Fault::Failed(reply)) => reply.meaning,
        Err(Fault::Unready(_)) => unreachable!("it comes of no attempt"),
    }
}

struct Ours;

impl Policy<Order, Reply, Fault> for Ours {
    fn copy(&self, request: &Order) -> Option<Order> {
        (*request).copy()
    }

    fn is_idempotent(&self, request: &Order) -> bool {
        request.idempotent
    }

    fn verdict(&self, outcome: Result<&Reply, &Fault>) -> Verdict {
        let failure = |class| Failure::new(class, Cause::Fault);
        match meaning(outcome) {
            Meaning::Success => Verdict::Success,
            Meaning::Ignored => Verdict::Ignored,
            Meaning::NotProcessed => failure(SafetyClass::NotProcessed).into(),
            Meaning::Transient => failure(SafetyClass::Transient).into(),
            Meaning::Permanent => failure(SafetyClass::Permanent).into(),
            Meaning::Stop => failure(SafetyClass::NotProcessed)
                .with_hint(Some(Hint::Stop))
                .into(),
        }
    }
}

#[derive(Clone)]
struct Towers {
    attempts_left: u64,
}

impl retry::Policy<Order, Reply, Fault> for Towers {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        request: &mut Order,
        result: &mut Result<Reply, Fault>,
    ) -> Option<Ready<()>> {
        let goes_again = match meaning(result.as_ref()) {
            Meaning::NotProcessed => true,
            Meaning::Transient => request.idempotent,
            Meaning::Success | Meaning::Ignored | Meaning::Permanent | Meaning::Stop => false,
        };
        self.attempts_left -= 1;
        (goes_again && self.attempts_left > 0).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Order) -> Option<Order> {
        request.copy()
    }
}

/// How a service becomes ready, after so many polls that came to nothing.
#[derive(Clone, Copy, Debug)]
struct Readiness {
    pending: u64,
    result: Result<(), Fault>,
}

/// How a service answers, after so many polls that came to nothing.
#[derive(Clone, Copy, Debug)]
struct Answer {
    pending: u64,
    result: Result<Reply, Fault>,
}

#[derive(Clone, Debug)]
struct Script {
    readiness: VecDeque<Readiness>,
    answers: VecDeque<Answer>,
    orders: Vec<Order>,
    max_attempts: u64,
}

impl Script {
    /// Long enough for every attempt that could be made.
    fn drawn(chance: &mut Chance) -> Self {
        let max_attempts = 1 + chance.below(MOST_ATTEMPTS);
        let attempts = CALLS as u64 * MOST_ATTEMPTS;
        // Some scripts go on for long.
        let goes_on = chance.below(2) == 0;
        let readiness = (0..attempts + CALLS as u64).map(|number| Readiness {
            pending: chance.below(3),
            result: match chance.below(12) {
                0 => Err(Fault::Unready(number)),
                _ => Ok(()),
            },
        });
        let readiness = readiness.collect();
        let answers = (0..attempts).map(|number| {
            let meaning = match chance.below(9) {
                0..6 if goes_on => Meaning::NotProcessed,
                drawn => MEANINGS[usize::try_from(drawn).unwrap() % MEANINGS.len()],
            };
            let reply = Reply { number, meaning };
            Answer {
                pending: chance.below(3),
                result: match chance.below(2) {
                    0 => Ok(reply),
                    _ => Err(Fault::Failed(reply)),
                },
            }
        });
        let answers = answers.collect();
        let orders = (0..CALLS).map(|number| Order {
            number,
            idempotent: chance.below(2) == 0,
            copies: chance.below(MOST_ATTEMPTS + 1),
        });
        Self {
            readiness,
            answers,
            orders: orders.collect(),
            max_attempts,
        }
    }
}

/// What happened to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Ready(Result<(), Fault>),
    Called(Order),
}

/// Plays a script. A clone goes on where the others are, and has a readiness of its own.
struct Player {
    script: Arc<Mutex<Script>>,
    events: Arc<Mutex<Vec<Event>>>,
    is_ready: bool,
    waits: Option<Readiness>,
}

impl Player {
    fn new(script: &Script) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.clone())),
            events: Arc::default(),
            is_ready: false,
            waits: None,
        }
    }
}

impl Clone for Player {
    fn clone(&self) -> Self {
        Self {
            script: Arc::clone(&self.script),
            events: Arc::clone(&self.events),
            is_ready: false,
            waits: None,
        }
    }
}

impl Service<Order> for Player {
    type Response = Reply;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Fault>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.is_ready {
            return Poll::Ready(Ok(()));
        }
        let next = || self.script.lock().unwrap().readiness.pop_front().unwrap();
        let readiness = self.waits.get_or_insert_with(next);
        if readiness.pending > 0 {
            readiness.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let result = readiness.result;
        self.waits = None;
        self.is_ready = result.is_ok();
        self.events.lock().unwrap().push(Event::Ready(result));
        Poll::Ready(result)
    }

    fn call(&mut self, order: Order) -> Self::Future {
        assert!(self.is_ready, "called without having been polled ready");
        self.is_ready = false;
        self.events.lock().unwrap().push(Event::Called(order));
        let answer = self.script.lock().unwrap().answers.pop_front().unwrap();
        Box::pin(async move {
            for _ in 0..answer.pending {
                tokio::task::yield_now().await;
            }
            answer.result
        })
    }
}

/// What the callers got, one after the other, and what the service saw.
#[derive(Debug, PartialEq, Eq)]
struct Played {
    results: Vec<Result<Reply, Fault>>,
    events: Vec<Event>,
}

async fn play<S>(
    script: &Script,
    around: impl FnOnce(Player) -> S,
    fault: impl Fn(S::Error) -> Fault,
) -> Played
where
    S: Service<Order, Response = Reply>,
{
    let player = Player::new(script);
    let events = Arc::clone(&player.events);
    let mut service = around(player);
    let mut results = Vec::new();
    for order in &script.orders {
        let result = match service.ready().await {
            Ok(service) => service.call(*order).await,
            Err(error) => Err(error),
        };
        results.push(result.map_err(&fault));
    }
    let events = events.lock().unwrap().clone();
    Played { results, events }
}

fn ours(
    script: &Script,
) -> impl Layer<Player, Service: Service<Order, Response = Reply, Error = BoxError>> {
    let at_once = Backoff::constant(Duration::ZERO).with_jitter(Jitter::None);
    let config = RetryConfig::default()
        .with_max_attempts(u32::try_from(script.max_attempts).unwrap())
        .with_backoff(at_once);
    RetryLayer::new(Ours)
        .with_config(config)
        .unwrap()
        .without_budget()
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_decides_like_towers_makes_the_same_calls_with_the_same_results() {
    let mut attempts = BTreeSet::new();
    let mut unready_again = 0;
    for seed in 0..SCRIPTS {
        let script = Script::drawn(&mut Chance(seed));
        let started = Instant::now();

        let ours = play(
            &script,
            |player| ours(&script).layer(player),
            |error| *error.downcast().unwrap(),
        );
        let ours = ours.await;
        let policy = Towers {
            attempts_left: script.max_attempts,
        };
        let towers = play(
            &script,
            |player| retry::Retry::new(policy, player),
            |fault| fault,
        );

        assert_eq!(ours, towers.await, "seed {seed}: {script:#?}");
        assert_eq!(
            started.elapsed(),
            Duration::ZERO,
            "seed {seed}: nothing waits"
        );
        for order in &script.orders {
            let is_its = |event: &&Event| matches!(event, Event::Called(seen) if seen.number == order.number);
            let made = ours.events.iter().filter(is_its).count();
            let unready = matches!(ours.results[order.number], Err(Fault::Unready(_)));
            unready_again += usize::from(unready && made > 0);
            attempts.insert(made);
        }
    }
    // 0 where the service was not ready for the first.
    assert_eq!(attempts, BTreeSet::from([0, 1, 2, 3, 4, 5]));
    assert!(unready_again > 100, "{unready_again}");
}

/// SplitMix64: what a seed draws stays the same.
struct Chance(u64);

impl Chance {
    const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
