use std::time::Duration;

use steadfast_core::idempotency::{KeyDigest, OwnerId};
use steadfast_store::{Standing, Store, StoreError};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{shared::Shared, signal::log_again};

const FIRST_LOOK: Duration = Duration::from_millis(25);
/// What the last look may take past the end of the wait.
const LAST_LOOK: Duration = Duration::from_millis(250);

const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How a wait ended.
pub(crate) enum Waited {
    /// Nobody executes the operation any more; this is how it stands.
    Over(Standing),
    /// Another owner still executes it, as far as is known.
    StillRunning,
    /// The store did not say.
    Unknown(StoreError),
}

/// Waits until another owner's execution is over, until `until` at most. Does not wait if too many do already.
///
/// # Cancel safety
///
/// Cancel safe: a waiter holds no claim, no connection and no slot.
pub(crate) async fn until_over<St: Store>(
    shared: &Shared<St>,
    key: &KeyDigest,
    seed: &OwnerId,
    until: Instant,
) -> Waited {
    let Ok(_place) = shared.waiting.try_acquire() else {
        return Waited::StillRunning;
    };
    let mut pauses = Pauses::new(seed);
    let mut failed = None;
    loop {
        let now = Instant::now();
        if until <= now {
            return failed.map_or(Waited::StillRunning, Waited::Unknown);
        }
        let next = (now + pauses.next()).min(until);
        sleep_until(next).await;
        let limit = until.max(next + LAST_LOOK);
        match timeout_at(limit, if_over(shared, key)).await {
            Ok(Ok(Some(standing))) => return Waited::Over(standing),
            Ok(Ok(None)) => failed = None,
            Ok(Err(error)) => {
                log_again(&error, "a look-up failed");
                failed = Some(error);
            }
            Err(elapsed) => return Waited::Unknown(StoreError::unavailable(elapsed)),
        }
    }
}

/// How the operation stands, unless another owner executes it.
pub(crate) async fn if_over<St: Store>(
    shared: &Shared<St>,
    key: &KeyDigest,
) -> Result<Option<Standing>, StoreError> {
    let standings = shared.store.look_up(std::slice::from_ref(key)).await?;
    Ok(standings
        .into_iter()
        .next()
        .filter(|standing| !matches!(standing, Standing::Running { .. })))
}

/// Doubling pauses, each between half of it and the whole: the waiters of one key do not ask in step.
struct Pauses {
    pause: Duration,
    chance: u64,
}

impl Pauses {
    fn new(seed: &OwnerId) -> Self {
        let mut chance = [0; 8];
        chance.copy_from_slice(&seed.as_bytes()[..8]);
        Self {
            pause: FIRST_LOOK,
            chance: u64::from_be_bytes(chance),
        }
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        // Each pause takes other bits of the seed, which is random.
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
        let mut pauses = Pauses::new(&OwnerId::from_bytes([0x5a; 16]));

        for longest in [25, 50, 100, 200, 400, 500, 500] {
            let longest = Duration::from_millis(longest);
            let pause = pauses.next();
            assert!((longest / 2..=longest).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn two_waiters_do_not_ask_in_step() {
        let mut one = Pauses::new(&OwnerId::from_bytes([1; 16]));
        let mut another = Pauses::new(&OwnerId::from_bytes([200; 16]));

        assert_ne!(one.next(), another.next());
    }
}
