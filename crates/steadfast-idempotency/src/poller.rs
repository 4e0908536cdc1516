//! Waiting for an operation that another process executes: one poller a layer asks the store for all of them at once.

use std::{
    collections::{HashMap, hash_map},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use steadfast_core::idempotency::KeyDigest;
use steadfast_store::{Standing, Store, StoreError};
use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{join::Ending, signal::log_again};

const FIRST_LOOK: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What the last look of a wait may take past its end.
pub(crate) const LAST_LOOK: Duration = Duration::from_millis(250);

/// Waits that end within so much of each other share their last look.
const SLACK: Duration = Duration::from_millis(10);

/// How many keys one statement asks for.
const BATCH: usize = 256;

/// How a wait ended.
pub(crate) enum Waited {
    /// Nobody executes the operation any more; this is how it stands.
    Over(Standing),
    /// Another owner still executes it, as far as is known.
    StillRunning,
    /// The store did not say.
    Unknown(Arc<StoreError>),
}

impl Waited {
    fn unknown(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unknown(Arc::new(StoreError::unavailable(error)))
    }
}

impl From<Waited> for Ending {
    /// What is told to those who joined the waiter. What it did not see they look for themselves.
    fn from(waited: Waited) -> Self {
        match waited {
            Waited::Over(Standing::Completed { response, .. }) => Self::Stored(response),
            Waited::Over(_) => Self::Again,
            Waited::StillRunning | Waited::Unknown(_) => Self::Elsewhere,
        }
    }
}

/// The keys that are waited for. Each has a pace of its own; those that are due at once share a look.
pub(crate) struct Poller<St> {
    store: Arc<St>,
    // A std mutex: it is held for a look into the map, never over an await.
    state: Mutex<State>,
    /// Somebody came: the first look is soon.
    came: Notify,
}

#[derive(Default)]
struct State {
    waited: HashMap<KeyDigest, Watch>,
    polls: bool,
    /// Of this poller alone: pollers of several processes do not ask in step, and the keys of one do.
    chance: u64,
}

/// One key, and those who wait for it.
struct Watch {
    waiters: Vec<Waiter>,
    pauses: Pauses,
    next: Instant,
}

struct Waiter {
    until: Instant,
    tell: oneshot::Sender<Waited>,
}

impl Watch {
    /// When the store is asked for it: by its pace, or at the end of a wait.
    fn due(&self) -> Instant {
        let ends = self.waiters.iter().map(|waiter| waiter.until);
        ends.fold(self.next, Instant::min)
    }

    /// Whether a look that begins now is for this key, too: its own would come soon, or could come late behind this one.
    fn is_due(&self, now: Instant) -> bool {
        let ends = self.waiters.iter().map(|waiter| waiter.until);
        self.next <= now + self.pauses.pause / 8
            || ends.min().is_some_and(|end| end <= now + LAST_LOOK)
    }

    fn is_left(&mut self) -> bool {
        self.waiters.retain(|waiter| !waiter.tell.is_closed());
        self.waiters.is_empty()
    }
}

const fn is_running(standing: &Standing) -> bool {
    matches!(standing, Standing::Running { .. })
}

impl<St> Poller<St> {
    pub(crate) fn new(store: Arc<St>) -> Self {
        Self {
            store,
            state: Mutex::default(),
            came: Notify::new(),
        }
    }

    /// Adds a waiter, and says whether somebody must begin to poll.
    fn add(&self, key: &KeyDigest, waiter: Waiter) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        if !state.polls {
            // Without chance several processes may ask in step, which costs nothing but the store's evenness.
            state.chance = getrandom::u64().unwrap_or(0);
        }
        let mut pauses = Pauses::new(state.chance);
        let next = now + pauses.next();
        let watch = state.waited.entry(*key).or_insert_with(|| Watch {
            waiters: Vec::new(),
            pauses,
            next,
        });
        watch.waiters.push(waiter);
        if next < watch.next {
            (watch.pauses, watch.next) = (pauses, next);
        }
        self.came.notify_one();
        !mem::replace(&mut state.polls, true)
    }

    /// When the store is to be asked; `None` if nobody waits, and then nobody polls any more.
    fn due(&self) -> Option<Instant> {
        let mut state = self.lock();
        state.waited.retain(|_, watch| !watch.is_left());
        let due = state.waited.values().map(Watch::due).min();
        state.polls = due.is_some();
        due
    }

    /// The keys that are due by `now`, or soon enough to share the look.
    fn take_due(&self, now: Instant) -> Vec<(KeyDigest, Watch)> {
        let mut state = self.lock();
        let due = state
            .waited
            .extract_if(|_, watch| watch.is_left() || watch.is_due(now));
        due.filter(|(_, watch)| !watch.waiters.is_empty()).collect()
    }

    fn put_back(&self, key: KeyDigest, mut watch: Watch) {
        watch.next = Instant::now() + watch.pauses.next();
        let mut state = self.lock();
        match state.waited.entry(key) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(watch);
            }
            // Somebody came meanwhile, and is looked for sooner.
            hash_map::Entry::Occupied(mut entry) => {
                entry.get_mut().waiters.append(&mut watch.waiters)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<St: Store> Poller<St> {
    /// Waits until another owner's execution is over, until `until` at most.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a waiter holds no claim, no connection and no slot.
    pub(crate) async fn until_over(self: &Arc<Self>, key: &KeyDigest, until: Instant) -> Waited {
        while Instant::now() < until {
            let (tell, told) = oneshot::channel();
            if self.add(key, Waiter { until, tell }) {
                tokio::spawn(poll(Polling(Some(Arc::clone(self)))));
            }
            match timeout_at(until + LAST_LOOK, told).await {
                Ok(Ok(waited)) => return waited,
                // The runtime of the poller ended. If it is this one too, to yield is to end.
                Ok(Err(_)) => yield_now().await,
                Err(elapsed) => return Waited::unknown(elapsed),
            }
        }
        Waited::unknown("nobody looked before the wait was over")
    }

    /// How the operation stands, unless another owner executes it.
    pub(crate) async fn if_over(&self, key: &KeyDigest) -> Result<Option<Standing>, StoreError> {
        let standings = self.store.look_up(std::slice::from_ref(key)).await?;
        Ok(standings
            .into_iter()
            .next()
            .filter(|standing| !is_running(standing)))
    }

    async fn look_up(&self, keys: &[KeyDigest]) -> Result<Vec<Standing>, Arc<StoreError>> {
        self.store.look_up(keys).await.map_err(|error| {
            log_again(&error, "a look-up failed");
            Arc::new(error)
        })
    }
}

/// Asks for all keys that are due, again and again, until nobody waits.
async fn poll<St: Store>(mut polling: Polling<St>) {
    let Some(poller) = polling.0.clone() else {
        return;
    };
    while let Some(due) = poller.due() {
        tokio::select! {
            () = sleep_until(due) => {}
            () = poller.came.notified() => continue,
        }
        let looked = Instant::now();
        let mut watches = poller.take_due(looked);
        while !watches.is_empty() {
            let batch = watches.split_off(watches.len().saturating_sub(BATCH));
            let keys: Vec<_> = batch.iter().map(|(key, _)| *key).collect();
            let found = poller.look_up(&keys).await;
            for (at, (key, mut watch)) in batch.into_iter().enumerate() {
                let standing = found.as_ref().map(|standings| standings.get(at));
                watch.waiters = tell(watch.waiters, standing, looked);
                if !watch.waiters.is_empty() {
                    poller.put_back(key, watch);
                }
            }
        }
    }
    polling.0 = None;
}

/// Tells the waiters of one key what was found by a look that began at `looked`, and gives back those who wait on.
fn tell(
    waiters: Vec<Waiter>,
    found: Result<Option<&Standing>, &Arc<StoreError>>,
    looked: Instant,
) -> Vec<Waiter> {
    let now = Instant::now();
    let mut waiting = Vec::new();
    for waiter in waiters {
        let waited = match found {
            Ok(Some(standing)) if !is_running(standing) => Waited::Over(standing.clone()),
            // A slow look has said enough to whose wait ended meanwhile.
            Ok(_) if waiter.until <= now + SLACK => Waited::StillRunning,
            Err(error) if waiter.until <= looked + SLACK => Waited::Unknown(Arc::clone(error)),
            Ok(_) | Err(_) => {
                waiting.push(waiter);
                continue;
            }
        };
        // It may have left meanwhile.
        let _ = waiter.tell.send(waited);
    }
    waiting
}

/// Held by the task that polls. One that was cut, since its runtime ended or the store panicked, sends its waiters to another.
struct Polling<St>(Option<Arc<Poller<St>>>);

impl<St> Drop for Polling<St> {
    fn drop(&mut self) {
        if let Some(poller) = &self.0 {
            *poller.lock() = State::default();
        }
    }
}

/// Doubling pauses, each between half of it and the whole.
#[derive(Clone, Copy)]
struct Pauses {
    pause: Duration,
    chance: u64,
}

impl Pauses {
    const fn new(chance: u64) -> Self {
        Self {
            pause: FIRST_LOOK,
            chance,
        }
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        // Each pause takes other bits.
        self.chance = self.chance.rotate_left(8);
        let share = self.chance & 0xff;
        pause / 2 + pause / 2 * u32::try_from(share).unwrap_or(0) / 0xff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_second_and_lie_in_their_upper_half() {
        let mut pauses = Pauses::new(0x5a5a);

        for longest in [25, 50, 100, 200, 400, 500, 500] {
            let longest = Duration::from_millis(longest);
            let pause = pauses.next();
            assert!((longest / 2..=longest).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn two_pollers_do_not_ask_in_step() {
        let mut one = Pauses::new(1 << 56);
        let mut another = Pauses::new(200 << 56);

        assert_ne!(one.next(), another.next());
    }
}
