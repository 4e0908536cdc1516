//! The shared allowance of retries.
//!
//! Why a budget: a limit of attempts bounds what one call may cost, not what all of them do. When a destination goes down, three
//! attempts each are three times the load on what is left of it, and where tiers stand on each other, each with its retries, the
//! factors multiply. A budget that all callers of a destination share makes retries a small part of the traffic, whatever happens.
//!
//! Why original requests deposit, and not successes: while everything fails, a budget that lives on successes runs dry, and then
//! the first good answers buy no retries either. Originals are there in every weather, and the load that retries add stays the
//! same part of them.
//!
//! What happens on a cold start: there are no originals yet to live on, nor are there many on a quiet connection. The floor pays
//! then: so many retries per second, ten seconds' worth of them at once.
//!
//! Two modes:
//!
//! - [`Budget::ratio`]: the sliding window of Finagle's [`RetryBudget`][finagle]. What may be withdrawn at a moment is the ratio
//!   times the originals of the last ten seconds, and ten seconds' worth of the floor, less what was withdrawn in these ten
//!   seconds. Seconds count as a whole: the window is the current one and the nine before it. Amounts are whole billionths of a
//!   retry, so that the sums are exact.
//! - [`Budget::grpc_throttle`]: the throttle of [gRPC's retry design][a6], which lives on outcomes, and stops retries while too
//!   many fail.
//!
//! A budget is the one thing here that is shared between threads; put it in an `Arc`. Under any interleaving, the retries that it
//! grants are no more than what the deposits made until then allow.
//!
//! ```
//! use std::time::Instant;
//! use steadfast_core::budget::Budget;
//!
//! # #[expect(clippy::disallowed_methods, reason = "the example is the outermost caller")]
//! let now = Instant::now();
//! let budget = Budget::ratio(0.5, 0)?;
//! budget.deposit(now);
//! assert!(budget.withdraw(now).is_none(), "one original pays for half a retry");
//!
//! budget.deposit(now);
//! let withdrawal = budget.withdraw(now).expect("two originals pay for a whole one");
//! assert!(!budget.has_token(now));
//!
//! budget.give_back(withdrawal);
//! assert!(budget.has_token(now));
//! # Ok::<(), steadfast_core::budget::InvalidBudget>(())
//! ```
//!
//! [a6]: https://github.com/grpc/proposal/blob/master/A6-client-retries.md#throttling-retry-attempts-and-hedged-rpcs
//! [finagle]: https://twitter.github.io/finagle/guide/Clients.html#retries

mod throttle;
mod window;

#[cfg(all(loom, test))]
mod loom;

use std::{fmt, time::Instant};

use self::{throttle::Throttle, window::Window};

/// What bounds the retries of everybody who shares it.
///
/// Its time never goes back: a retry that is granted with an earlier `now` than another one before counts as if it had been
/// granted with the later.
pub struct Budget {
    mode: Mode,
}

#[expect(
    clippy::large_enum_variant,
    reason = "budgets are few; a box would be one more hop for every request"
)]
enum Mode {
    Ratio(Window),
    Throttle(Throttle),
}

impl Budget {
    /// 0.2, as Finagle has it: retries add a fifth to the load at most.
    pub const DEFAULT_RATIO: f64 = 0.2;
    /// 10 retries per second, as Finagle has it.
    pub const DEFAULT_FLOOR: u32 = 10;

    /// Creates a budget of `ratio` retries per original request of the last ten seconds, and `floor` retries per second besides.
    ///
    /// The ratio is rounded to billionths. Above 1, calls get more retries than there are calls, to be of use only with more than
    /// two attempts.
    ///
    /// # Errors
    ///
    /// [`InvalidBudget::Ratio`] unless the ratio is from 0 to 10, and [`InvalidBudget::NoRetries`] if it is zero and the floor is
    /// too.
    pub fn ratio(ratio: f64, floor: u32) -> Result<Self, InvalidBudget> {
        if !(0.0..=Window::MAX_RATIO).contains(&ratio) {
            return Err(InvalidBudget::Ratio { ratio });
        }
        let window = Window::new(ratio, floor);
        if window.is_always_empty() {
            return Err(InvalidBudget::NoRetries);
        }
        Ok(Self {
            mode: Mode::Ratio(window),
        })
    }

    /// Creates a budget that grants retries while more than half of `max_tokens` is there. It starts full; a failed attempt
    /// takes one token, and one that succeeds brings back `token_ratio` of one.
    ///
    /// As gRPC has it, decimal places of the ratio beyond the third are ignored. Retries themselves take nothing, and originals
    /// bring nothing: [`succeeded`](Self::succeeded) and [`failed`](Self::failed) move the tokens.
    ///
    /// # Errors
    ///
    /// [`InvalidBudget::MaxTokens`] unless there are from 1 to 1000 tokens, and [`InvalidBudget::TokenRatio`] unless the ratio
    /// is a finite number of at least 0.001.
    pub fn grpc_throttle(max_tokens: u32, token_ratio: f64) -> Result<Self, InvalidBudget> {
        Throttle::new(max_tokens, token_ratio).map(|throttle| Self {
            mode: Mode::Throttle(throttle),
        })
    }

    /// Takes note of an original request, sent at `now`.
    ///
    /// Lock-free, and allocates nothing. Does nothing in the throttle mode.
    #[inline]
    pub fn deposit(&self, now: Instant) {
        match &self.mode {
            Mode::Ratio(window) => window.deposit(now),
            Mode::Throttle(_) => {}
        }
    }

    /// Whether a withdrawal would be granted at `now`. Takes nothing: others may be faster.
    #[inline]
    #[must_use]
    pub fn has_token(&self, now: Instant) -> bool {
        match &self.mode {
            Mode::Ratio(window) => window.has_token(now),
            Mode::Throttle(throttle) => throttle.permits(),
        }
    }

    /// Takes one retry, if there is one.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> Option<Withdrawal> {
        match &self.mode {
            Mode::Ratio(window) => {
                let slot = window.withdraw(now)?;
                Some(Withdrawal { slot: Some(slot) })
            }
            Mode::Throttle(throttle) => throttle.permits().then_some(Withdrawal { slot: None }),
        }
    }

    /// Gives back a retry that was not made. `withdrawal` is one of this budget.
    ///
    /// Changes nothing once the window has passed it.
    pub fn give_back(&self, withdrawal: Withdrawal) {
        match (&self.mode, withdrawal.slot) {
            (Mode::Ratio(window), Some(slot)) => window.give_back(slot),
            (Mode::Ratio(_), None) | (Mode::Throttle(_), _) => {}
        }
    }

    /// Whether [`succeeded`](Self::succeeded) and [`failed`](Self::failed) move it, so that it has to be told of every outcome.
    #[inline]
    #[must_use]
    pub const fn counts_outcomes(&self) -> bool {
        match self.mode {
            Mode::Ratio(_) => false,
            Mode::Throttle(_) => true,
        }
    }

    /// Takes note of an attempt that succeeded. Does nothing in the ratio mode.
    #[inline]
    pub fn succeeded(&self) {
        match &self.mode {
            Mode::Ratio(_) => {}
            Mode::Throttle(throttle) => throttle.succeeded(),
        }
    }

    /// Takes note of an attempt that failed in a way that a retry might heal, or whose destination asked for no retries. Does
    /// nothing in the ratio mode.
    pub fn failed(&self) {
        match &self.mode {
            Mode::Ratio(_) => {}
            Mode::Throttle(throttle) => throttle.failed(),
        }
    }
}

impl Default for Budget {
    /// A fifth of the original requests, and 10 retries per second: Finagle's defaults.
    fn default() -> Self {
        Self {
            mode: Mode::Ratio(Window::new(Self::DEFAULT_RATIO, Self::DEFAULT_FLOOR)),
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mode {
            Mode::Ratio(window) => window.fmt(f),
            Mode::Throttle(throttle) => throttle.fmt(f),
        }
    }
}

/// One retry that was taken from a [`Budget`], to be [given back](Budget::give_back) if it is not made.
#[derive(Debug)]
#[must_use = "a retry that is not made is to be given back"]
pub struct Withdrawal {
    /// The second of the window that was charged; none in the throttle mode, which charges nobody.
    slot: Option<u32>,
}

/// Why a [`Budget`] cannot work.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum InvalidBudget {
    /// The tokens of gRPC's throttle are out of its range.
    MaxTokens {
        /// How many there would be.
        max_tokens: u32,
    },
    /// Neither the ratio nor the floor would ever pay for a retry.
    NoRetries,
    /// The retries per original request are out of range.
    Ratio {
        /// How many there would be.
        ratio: f64,
    },
    /// A success cannot bring back this part of a token.
    TokenRatio {
        /// The part.
        token_ratio: f64,
    },
}

impl fmt::Display for InvalidBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxTokens { max_tokens } => write!(
                f,
                "budget of {max_tokens} tokens: gRPC's throttle has 1 to {}",
                Throttle::MAX_TOKENS
            ),
            Self::NoRetries => f.write_str(
                "budget with a ratio and a floor of zero: it would never grant a retry, which a limit of one attempt says better",
            ),
            Self::Ratio { ratio } => write!(
                f,
                "budget of {ratio} retries per request: it must be a number from 0 to {}",
                Window::MAX_RATIO
            ),
            Self::TokenRatio { token_ratio } => write!(
                f,
                "token ratio of {token_ratio}: it must be a finite number of at least 0.001, or successes would bring nothing back"
            ),
        }
    }
}

impl std::error::Error for InvalidBudget {}
