//! Whether another attempt is safe, useful and in time.
//!
//! The decision is a function of facts. What it leaves to the caller, because it changes something, comes after it: the
//! [`Budget`](crate::budget::Budget) has the last word, and is asked only where nothing else forbids the retry. All of it happens
//! before the wait, while the result of the last attempt can still be handed out.

use std::time::Duration;

use crate::{
    backoff::{Backoff, Sample},
    verdict::{Cause, Failure, Hint, SafetyClass, Verdict},
};

/// What a policy of retries allows, but for its budget.
#[derive(Clone, Debug)]
pub struct Rules {
    max_attempts: u32,
    backoff: Backoff,
    hint_cap: Duration,
    min_attempt_time: Duration,
}

impl Rules {
    /// 3, the first one counted: most faults that pass are gone by then, and a destination that is down sees no more than three
    /// times the load (the choice of the AWS SDKs and of Google's SRE book, chapter 21).
    pub const DEFAULT_MAX_ATTEMPTS: u32 = 3;
    /// 60 s: who is asked to wait longer had better hear it than wait.
    pub const DEFAULT_HINT_CAP: Duration = Duration::from_secs(60);
    /// 1 ms, about what a round trip in one data centre takes.
    pub const DEFAULT_MIN_ATTEMPT_TIME: Duration = Duration::from_millis(1);

    /// How many attempts one call may take, the first one counted; 1 disables retries. Default
    /// [3](Self::DEFAULT_MAX_ATTEMPTS).
    #[must_use]
    pub fn with_max_attempts(self, max_attempts: u32) -> Self {
        Self {
            max_attempts,
            ..self
        }
    }

    /// How long to wait between attempts. Default [`Backoff::default`].
    #[must_use]
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// The longest wait that a destination may ask for; one that asks for more is not called again. Default
    /// [60 s](Self::DEFAULT_HINT_CAP).
    #[must_use]
    pub fn with_hint_cap(self, hint_cap: Duration) -> Self {
        Self { hint_cap, ..self }
    }

    /// What must be left before the deadline when an attempt starts. Default [1 ms](Self::DEFAULT_MIN_ATTEMPT_TIME).
    #[must_use]
    pub fn with_min_attempt_time(self, min_attempt_time: Duration) -> Self {
        Self {
            min_attempt_time,
            ..self
        }
    }

    /// How many attempts one call may take.
    #[must_use]
    pub const fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// How long to wait between attempts.
    #[must_use]
    pub const fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    /// The longest wait that a destination may ask for.
    #[must_use]
    pub const fn hint_cap(&self) -> Duration {
        self.hint_cap
    }

    /// What must be left before the deadline when an attempt starts.
    #[must_use]
    pub const fn min_attempt_time(&self) -> Duration {
        self.min_attempt_time
    }

    /// What to do after an attempt. The first of the reasons to stop, in the order of [`StoppedBy`], counts.
    ///
    /// The budget is still to be asked before a [`Decision::Retry`] is followed.
    #[must_use]
    pub fn decide(&self, progress: Progress, facts: &Facts, sample: Sample) -> Decision {
        match self.next(progress, facts, sample) {
            Ok((delay, progress)) => Decision::Retry { delay, progress },
            Err(stopped_by) => Decision::Return(stopped_by),
        }
    }

    fn next(
        &self,
        progress: Progress,
        facts: &Facts,
        sample: Sample,
    ) -> Result<(Duration, Progress), StoppedBy> {
        let failure = match facts.verdict {
            Verdict::Success => return Err(StoppedBy::Success),
            Verdict::Ignored => return Err(StoppedBy::Ignored),
            Verdict::Failure(failure) => failure,
        };
        let too_early = failure.cause() == Cause::TooEarly;
        if failure.class() == SafetyClass::Permanent || too_early && progress.was_too_early {
            return Err(StoppedBy::Permanent);
        }
        if !failure.class().permits_retry(facts.idempotent) {
            return Err(StoppedBy::NotIdempotent);
        }
        if progress.attempts >= self.max_attempts {
            return Err(StoppedBy::Attempts);
        }
        if !facts.replayable {
            return Err(StoppedBy::Body);
        }
        if self.is_forbidden(failure.hint()) {
            return Err(StoppedBy::Hint);
        }
        let delay = self.delay(progress, failure, sample);
        if delay.saturating_add(self.min_attempt_time) > facts.remaining {
            return Err(StoppedBy::Deadline);
        }
        let next = Progress {
            attempts: progress.attempts.saturating_add(1),
            waited: delay,
            hurried: progress.hurried || failure.class() == SafetyClass::NotProcessed,
            was_too_early: progress.was_too_early || too_early,
        };
        Ok((delay, next))
    }

    fn is_forbidden(&self, hint: Option<Hint>) -> bool {
        match hint {
            None => false,
            Some(Hint::After(delay)) => delay > self.hint_cap,
            Some(Hint::Stop) => true,
        }
    }

    fn delay(&self, progress: Progress, failure: Failure, sample: Sample) -> Duration {
        let Progress {
            attempts: retry,
            waited,
            ..
        } = progress;
        match failure.hint() {
            Some(Hint::After(hint)) => self.backoff.delay_after(hint, retry, waited, sample),
            Some(Hint::Stop) | None => {
                let throttled = failure.cause() == Cause::Throttled;
                let not_processed = failure.class() == SafetyClass::NotProcessed;
                if not_processed && !throttled && !progress.hurried {
                    return Duration::ZERO;
                }
                self.backoff.delay(retry, waited, throttled, sample)
            }
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_attempts: Self::DEFAULT_MAX_ATTEMPTS,
            backoff: Backoff::default(),
            hint_cap: Self::DEFAULT_HINT_CAP,
            min_attempt_time: Self::DEFAULT_MIN_ATTEMPT_TIME,
        }
    }
}

/// How far one call's attempts have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Attempts that were started.
    attempts: u32,
    /// The wait before the last of them.
    waited: Duration,
    /// The one attempt that may follow at once has been made.
    hurried: bool,
    was_too_early: bool,
}

impl Progress {
    /// The first attempt is under way.
    #[must_use]
    pub const fn first() -> Self {
        Self {
            attempts: 1,
            waited: Duration::ZERO,
            hurried: false,
            was_too_early: false,
        }
    }

    /// Attempts that were started, the first one counted.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The attempt that was decided on was not made after all.
    #[must_use]
    pub const fn without_last(self) -> Self {
        Self {
            attempts: self.attempts.saturating_sub(1),
            ..self
        }
    }
}

/// What is known when an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    verdict: Verdict,
    idempotent: bool,
    replayable: bool,
    remaining: Duration,
}

impl Facts {
    /// Of an attempt with this verdict, of an operation that is not idempotent, whose request can be sent again at any time.
    #[must_use]
    pub const fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            idempotent: false,
            replayable: true,
            remaining: Duration::MAX,
        }
    }

    /// Says whether doing the operation twice is the same as doing it once.
    #[must_use]
    pub const fn with_idempotent(self, idempotent: bool) -> Self {
        Self { idempotent, ..self }
    }

    /// Says whether the request can be sent again, byte for byte.
    #[must_use]
    pub const fn with_replayable(self, replayable: bool) -> Self {
        Self { replayable, ..self }
    }

    /// Says how long from now a further attempt may still start.
    #[must_use]
    pub const fn with_remaining(self, remaining: Duration) -> Self {
        Self { remaining, ..self }
    }
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Hand out its result.
    Return(StoppedBy),
    /// Wait, and make another one.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// The progress once that attempt is under way.
        progress: Progress,
    },
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Why there was no further attempt, in the order in which the reasons are looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum StoppedBy {
            $($(#[$doc])* $variant,)*
        }

        impl StoppedBy {
            /// Every reason there is, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word of logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// The attempt succeeded.
    Success = "success",
    /// The outcome says nothing about the destination.
    Ignored = "ignored",
    /// Another attempt would fail alike, or was forbidden.
    Permanent = "permanent",
    /// The destination may have processed the call, and doing the operation twice is not the same as doing it once.
    NotIdempotent = "not_idempotent",
    /// No attempts are left.
    Attempts = "attempts",
    /// The request cannot be sent again byte for byte.
    Body = "body",
    /// The destination said not to, or not for longer than anybody would wait.
    Hint = "hint",
    /// A further attempt would come too late.
    Deadline = "deadline",
    /// The budget of retries is used up.
    Budget = "budget",
    /// The service was not ready for a further attempt.
    Unready = "unready",
}

#[cfg(test)]
mod tests;
