//! Any order of polls, drops, further attempts and the end of the call, against a model that is slow and plain.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, SizeHint};
use proptest::{collection::vec, prelude::*};
use steadfast_http::body::{BytePool, Replay, ReplayBody, Reservation};

use super::support::{Item, Original, Polled, Step, Task, Tells, Watch};

#[derive(Clone, Debug)]
enum Op {
    /// Of one of the attempts, an old one perhaps.
    Poll(usize),
    /// The same, of the newest attempt.
    PollNewest,
    Drop(usize),
    Again,
    Commit,
    /// Somebody else takes bytes from the pool, or gives them back.
    Take(usize),
    GiveBack,
}

#[derive(Clone, Debug)]
struct Script {
    steps: Vec<Step>,
    tells: Tells,
    tells_end: bool,
    limit: usize,
    pool: usize,
    ops: Vec<Op>,
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_attempt_reads_the_whole_body(script in script()) {
        let mut system = System::new(&script);
        for op in &script.ops {
            system.apply(op);
            system.check();
        }
        system.finish();
    }
}

/// An attempt as it is, and what the model knows of it.
struct Attempt {
    body: Option<ReplayBody<Original>>,
    task: Arc<Task>,
    yielded: Vec<Item>,
    waits: bool,
    is_superseded: bool,
    has_ended: bool,
}

struct System {
    // The real thing.
    replay: Option<Replay<Original>>,
    attempts: Vec<Attempt>,
    pool: BytePool,
    competitor: Option<Reservation>,
    watch: Watch,
    // The model.
    hint: SizeHint,
    limit: usize,
    pool_size: usize,
    taken: usize,
    tells_end: bool,
    /// What the original has still to do.
    steps: Vec<Step>,
    has_ended: bool,
    has_failed: bool,
    /// Everything that the original has yielded.
    read: Vec<Item>,
    /// What is kept of that, in bytes: `None` once it cannot be replayed.
    kept: Option<usize>,
    is_committed: bool,
}

impl System {
    fn new(script: &Script) -> Self {
        let original = Original::new(script.steps.clone())
            .telling(script.tells)
            .telling_its_end(script.tells_end);
        let hint = original.size_hint();
        let watch = original.watch();
        let pool = BytePool::new(script.pool);
        let (replay, body) = Replay::new(original, script.limit, &pool);
        Self {
            replay: Some(replay),
            attempts: vec![Attempt::new(body)],
            pool,
            competitor: None,
            watch,
            hint,
            limit: script.limit,
            pool_size: script.pool,
            taken: 0,
            tells_end: script.tells_end,
            steps: script.steps.clone(),
            has_ended: false,
            has_failed: false,
            read: Vec::new(),
            kept: Some(0),
            is_committed: false,
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Poll(at) => self.poll(at % self.attempts.len()),
            Op::PollNewest => self.poll(self.attempts.len() - 1),
            Op::Drop(at) => {
                let at = at % self.attempts.len();
                self.attempts[at].body = None;
                self.attempts[at].waits = false;
                self.release();
            }
            Op::Again => self.again(),
            Op::Commit => {
                self.replay = None;
                self.is_committed = true;
                self.release();
            }
            Op::Take(bytes) => {
                let mut reservation = self.pool.reservation();
                self.competitor = None;
                self.taken = 0;
                if reservation.try_grow(bytes) {
                    self.competitor = Some(reservation);
                    self.taken = bytes;
                }
            }
            Op::GiveBack => {
                self.competitor = None;
                self.taken = 0;
            }
        }
    }

    fn again(&mut self) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        let newest = self.attempts.last_mut().unwrap();
        let wakes = newest.task.wakes();

        let body = replay.again();

        assert_eq!(body.is_some(), self.kept.is_some());
        let Some(body) = body else {
            assert_eq!(newest.task.wakes(), wakes);
            return;
        };
        let woken = newest.task.wakes() > wakes;
        assert!(woken || !newest.waits, "nobody woke the earlier attempt");
        newest.is_superseded = true;
        self.attempts.push(Attempt::new(body));
    }

    fn poll(&mut self, at: usize) {
        let Some(mut body) = self.attempts[at].body.take() else {
            return;
        };
        let is_newest = at + 1 == self.attempts.len();
        // Nobody may poll a body after its error.
        if is_newest && self.has_failed {
            self.attempts[at].body = Some(body);
            return;
        }
        let expected = self.expect(at);
        let ended_before = body.is_end_stream();

        let polled = self.attempts[at].task.poll(&mut body);

        assert_eq!(polled, expected);
        let attempt = &mut self.attempts[at];
        attempt.body = Some(body);
        attempt.waits = polled == Polled::Waits;
        if let Polled::Item(item) = &polled {
            assert!(!ended_before, "a frame came after the end");
            attempt.yielded.push(item.clone());
            let has_all = attempt.yielded.len() == self.read.len();
            attempt.has_ended =
                has_all && (self.has_ended || self.tells_end && self.steps.is_empty());
        }
        if polled == Polled::Ended && !attempt.is_superseded {
            attempt.has_ended = true;
            assert_eq!(attempt.yielded, self.read);
            assert!(self.steps.is_empty(), "the end came before the end");
        }
        if is_newest {
            self.release();
        }
    }

    /// What the next poll of this attempt must give.
    fn expect(&mut self, at: usize) -> Polled {
        let attempt = &mut self.attempts[at];
        if attempt.is_superseded {
            let has_ended = std::mem::replace(&mut attempt.has_ended, true);
            return if has_ended {
                Polled::Ended
            } else {
                Polled::superseded()
            };
        }
        if let Some(item) = self.read.get(attempt.yielded.len()) {
            return Polled::Item(item.clone());
        }
        if self.steps.is_empty() {
            self.has_ended = true;
            return Polled::Ended;
        }
        match self.steps.remove(0) {
            Step::Wait => Polled::Waits,
            Step::Fail(error) => {
                self.has_failed = true;
                self.kept = None;
                Polled::Failed(error.into())
            }
            Step::Panic => unreachable!("no script has one"),
            Step::Yield(item) => {
                self.keep(&item);
                self.read.push(item.clone());
                Polled::Item(item)
            }
        }
    }

    fn keep(&mut self, item: &Item) {
        let Some(kept) = self.kept else {
            return;
        };
        let follows_trailers = matches!(self.read.last(), Some(Item::Trailers(_)));
        let now = kept + weight(item);
        let fits = now <= self.limit && now + self.taken <= self.pool_size;
        self.kept = (fits && !follows_trailers && !self.is_committed).then_some(now);
    }

    /// After the end of the call only what the newest attempt has still to send stays.
    fn release(&mut self) {
        let newest = self.attempts.last().unwrap();
        let has_all = newest.yielded.len() >= self.read.len();
        if self.is_committed && (newest.body.is_none() || has_all) {
            self.kept = None;
        }
    }

    fn check(&self) {
        let kept = self.kept.unwrap_or(0);
        assert_eq!(self.pool.available(), self.pool_size - self.taken - kept);
        if let Some(replay) = &self.replay {
            assert_eq!(replay.is_replayable(), self.kept.is_some());
        }
        for attempt in &self.attempts {
            let Some(body) = &attempt.body else {
                continue;
            };
            if attempt.is_superseded && attempt.has_ended {
                assert!(body.is_end_stream());
                continue;
            }
            let yielded = attempt.yielded.iter().map(Item::len).sum::<u64>();
            let hint = body.size_hint();
            assert_eq!(hint.lower(), self.hint.lower().saturating_sub(yielded));
            let upper = self.hint.upper().map(|upper| upper.saturating_sub(yielded));
            assert_eq!(hint.upper(), upper);

            let original_ended = self.has_ended || self.tells_end && self.steps.is_empty();
            let has_all = attempt.yielded.len() == self.read.len();
            let is_end = !attempt.is_superseded && has_all && original_ended;
            assert_eq!(body.is_end_stream(), is_end);
        }
    }

    /// Sends the body once more to its end, if that can be, and looks at what is left behind.
    fn finish(mut self) {
        self.again();
        self.check();
        let last = self.attempts.len() - 1;
        while self.attempts[last].body.is_some()
            && !self.attempts[last].has_ended
            && !self.has_failed
        {
            self.poll(last);
            self.check();
        }
        self.competitor = None;
        self.taken = 0;
        self.apply(&Op::Commit);
        self.check();
        self.apply(&Op::Drop(last));
        self.check();
        assert!(self.watch.is_dropped());

        self.attempts.clear();
        assert_eq!(self.pool.available(), self.pool_size);
    }
}

impl Attempt {
    fn new(body: ReplayBody<Original>) -> Self {
        Self {
            body: Some(body),
            task: Task::new(),
            yielded: Vec::new(),
            waits: false,
            is_superseded: false,
            has_ended: false,
        }
    }
}

fn weight(item: &Item) -> usize {
    match item {
        Item::Data(data) => data.len(),
        Item::Trailers(trailers) => trailers
            .iter()
            .map(|(name, value)| 32 + name.as_str().len() + value.as_bytes().len())
            .sum(),
    }
}

fn script() -> impl Strategy<Value = Script> {
    let tells = prop_oneof![
        Just(Tells::Nothing),
        Just(Tells::AtLeast),
        Just(Tells::Exactly)
    ];
    let room = || prop_oneof![0..30_usize, 30..200_usize, Just(usize::MAX >> 8)];
    (
        steps(),
        tells,
        any::<bool>(),
        room(),
        room(),
        vec(op(), 0..60),
    )
        .prop_map(|(steps, tells, tells_end, limit, pool, ops)| Script {
            // A body that says at once that it has ended has no attempts: it has a test of its own.
            tells_end: tells_end && !steps.is_empty(),
            steps,
            tells,
            limit,
            pool,
            ops,
        })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let middle = prop_oneof![
        6 => (0..12_usize).prop_map(Some),
        2 => Just(None),
    ];
    let end = prop_oneof![
        4 => Just(vec![]),
        3 => Just(vec![Step::Yield(trailers("1"))]),
        1 => Just(vec![Step::Yield(trailers("1")), Step::Wait]),
        1 => Just(vec![Step::Yield(trailers("1")), Step::Yield(trailers("2"))]),
        1 => Just(vec![Step::Fail("cut")]),
    ];
    (vec(middle, 0..10), end).prop_map(|(middle, end)| {
        let mut next = 0_u8;
        let mut bytes = |len| {
            let data: Vec<u8> = (next..next + len).collect();
            next += len;
            Bytes::from(data)
        };
        let middle = middle.into_iter().map(|len| match len {
            Some(len) => Step::Yield(Item::Data(bytes(u8::try_from(len).unwrap()))),
            None => Step::Wait,
        });
        middle.chain(end).collect()
    })
}

fn trailers(value: &'static str) -> Item {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static(value));
    trailers.append("checksum", HeaderValue::from_static("again"));
    Item::Trailers(trailers)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<usize>().prop_map(Op::Poll),
        12 => Just(Op::PollNewest),
        2 => any::<usize>().prop_map(Op::Drop),
        3 => Just(Op::Again),
        1 => Just(Op::Commit),
        1 => (0..60_usize).prop_map(Op::Take),
        1 => Just(Op::GiveBack),
    ]
}
