//! How long to wait before another attempt.
//!
//! Why grow: a fault that outlives a short wait is likely to outlive several, and callers that keep asking at the same pace keep an
//! overloaded destination down. Why chance: callers that failed together wait equally long, and come back together. In the
//! simulations of [Exponential Backoff And Jitter][aws] (AWS Architecture Blog), delays that only grow cost the most calls. Full
//! and decorrelated jitter need the least work until everybody is through; equal jitter, which keeps half of the delay, needs
//! more work and more time. So [full jitter](Jitter::Full) is the default.
//!
//! The cap comes first and chance after it: the other way around, all who draw beyond the cap would wait for exactly the cap,
//! and be a herd again.
//!
//! A first failure has no history; it waits for a delay drawn from the base alone.
//!
//! Delays are whole nanoseconds. Anything beyond 2^64 - 1 of them (584 years) counts as that much.
//!
//! ```
//! use std::time::Duration;
//! use steadfast_core::backoff::{Backoff, Jitter, Sample};
//!
//! let backoff = Backoff::exponential(Duration::from_millis(50), Duration::from_secs(10));
//! backoff.check()?;
//!
//! // The third retry waits for up to 50 ms * 2 * 2; chance decides.
//! let delay = |drawn| backoff.delay(3, Duration::ZERO, false, Sample::new(drawn));
//! assert_eq!(delay(0), Duration::ZERO);
//! assert_eq!(delay(u64::MAX / 2), Duration::from_millis(100));
//! assert_eq!(delay(u64::MAX), Duration::from_millis(200));
//! # Ok::<(), steadfast_core::backoff::InvalidBackoff>(())
//! ```
//!
//! [aws]: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

use std::{fmt, sync::Arc, time::Duration};

/// Delays that grow from attempt to attempt, and are spread by chance.
///
/// Any value can be built; [`check`](Self::check) says whether it can work. A backoff that cannot still gives some delay, and never
/// panics: what is wrong with it counts as the nearest thing that is not.
#[derive(Clone)]
pub struct Backoff {
    shape: Shape,
    jitter: Jitter,
    throttled_base: Duration,
}

#[derive(Clone)]
enum Shape {
    Constant(Duration),
    Custom(Arc<dyn Fn(u32) -> Duration + Send + Sync>),
    Exponential {
        base: Duration,
        cap: Duration,
        multiplier: f64,
    },
}

impl Backoff {
    /// 50 ms: some round trips within a region, and hardly noticed by a person who waits.
    pub const DEFAULT_BASE: Duration = Duration::from_millis(50);
    /// 10 s: more is seldom worth the wait to whoever made the call.
    pub const DEFAULT_CAP: Duration = Duration::from_secs(10);
    /// 1 s, as in the AWS SDKs: who is throttled is to slow down, not to come again at the next chance.
    pub const DEFAULT_THROTTLED_BASE: Duration = Duration::from_secs(1);
    /// 2, the factor of nearly everybody: each wait is as long as all before it together.
    pub const DEFAULT_MULTIPLIER: f64 = 2.0;

    /// Creates a backoff whose delays start at `base`, double from retry to retry, and end at `cap`, with full jitter.
    #[must_use]
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self::new(Shape::Exponential {
            base,
            cap,
            multiplier: Self::DEFAULT_MULTIPLIER,
        })
    }

    /// Creates a backoff whose delays are all drawn from the same one, with full jitter.
    #[must_use]
    pub const fn constant(delay: Duration) -> Self {
        Self::new(Shape::Constant(delay))
    }

    /// Creates a backoff of the user's own, with full jitter; `delay` is given the number of the retry: 1 for the second attempt.
    #[must_use]
    pub fn custom(delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        Self::new(Shape::Custom(Arc::new(delay)))
    }

    const fn new(shape: Shape) -> Self {
        Self {
            shape,
            jitter: Jitter::Full,
            throttled_base: Self::DEFAULT_THROTTLED_BASE,
        }
    }

    /// By what an exponential delay grows from retry to retry. Default [2](Self::DEFAULT_MULTIPLIER).
    ///
    /// Constant and custom delays do not grow by themselves, and stay as they are.
    #[must_use]
    pub fn with_multiplier(mut self, factor: f64) -> Self {
        if let Shape::Exponential { multiplier, .. } = &mut self.shape {
            *multiplier = factor;
        }
        self
    }

    /// How chance spreads the delays. Default [`Jitter::Full`].
    #[must_use]
    pub fn with_jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// Where exponential delays start at least, when the destination asked for fewer calls without saying when. The cap holds
    /// all the same. Default [1 s](Self::DEFAULT_THROTTLED_BASE).
    ///
    /// Constant and custom delays are taken as they were given.
    #[must_use]
    pub fn with_throttled_base(self, throttled_base: Duration) -> Self {
        Self {
            throttled_base,
            ..self
        }
    }

    /// Says whether this can work.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), InvalidBackoff> {
        let mut grows = false;
        if let Shape::Exponential {
            base,
            cap,
            multiplier,
        } = self.shape
        {
            if base > cap {
                return Err(InvalidBackoff::BaseAboveCap { base, cap });
            }
            if base.is_zero() {
                return Err(InvalidBackoff::BaseZero);
            }
            if !multiplier.is_finite() || multiplier < 1.0 {
                return Err(InvalidBackoff::Multiplier { multiplier });
            }
            grows = true;
        }
        match self.jitter {
            Jitter::Decorrelated if !grows => Err(InvalidBackoff::Decorrelated),
            Jitter::Ratio(ratio) if !(ratio > 0.0 && ratio <= 1.0) => {
                Err(InvalidBackoff::Ratio { ratio })
            }
            Jitter::Decorrelated
            | Jitter::Equal
            | Jitter::Full
            | Jitter::None
            | Jitter::Ratio(_) => Ok(()),
        }
    }

    /// The wait before retry number `retry` (1 for the second attempt). `previous` is the last wait that this gave for the same
    /// request, zero before the first; `throttled`, whether the destination asked for fewer calls.
    #[must_use]
    pub fn delay(
        &self,
        retry: u32,
        previous: Duration,
        throttled: bool,
        sample: Sample,
    ) -> Duration {
        let nominal = self.nominal(retry, throttled);
        let (lower, upper) = match self.jitter {
            Jitter::Decorrelated => self
                .decorrelated(previous, throttled)
                .unwrap_or((0, nominal)),
            Jitter::Equal => (nominal / 2, nominal),
            Jitter::Full => (0, nominal),
            Jitter::None => (nominal, nominal),
            Jitter::Ratio(ratio) => self.around(nominal, ratio),
        };
        Duration::from_nanos(sample.within(lower, upper))
    }

    /// The wait where the destination asked for `hint` at least: the hint, and beyond it chance alone.
    ///
    /// What chance adds is at most the delay of this retry, so that those who were given the same hint do not come back together.
    /// It adds nothing without jitter. The wait is never shorter than [`delay`](Self::delay) gives for the same sample, and may
    /// exceed the cap, which is no match for the destination's own word.
    #[must_use]
    pub fn delay_after(
        &self,
        hint: Duration,
        retry: u32,
        previous: Duration,
        sample: Sample,
    ) -> Duration {
        let spread = match self.jitter {
            Jitter::None => 0,
            Jitter::Decorrelated | Jitter::Equal | Jitter::Full | Jitter::Ratio(_) => {
                self.nominal(retry, false)
            }
        };
        let added = Duration::from_nanos(sample.within(0, spread));
        hint.saturating_add(added)
            .max(self.delay(retry, previous, false, sample))
    }

    /// The delay before chance.
    fn nominal(&self, retry: u32, throttled: bool) -> u64 {
        match &self.shape {
            Shape::Constant(delay) => nanos(*delay),
            Shape::Custom(delay) => nanos(delay(retry)),
            Shape::Exponential {
                base,
                cap,
                multiplier,
            } => {
                let base = nanos(self.base(*base, throttled));
                // `max` takes the 1 where the other is not a number
                let growth = multiplier.max(1.0).powf(f64::from(retry.saturating_sub(1)));
                base.saturating_add(scaled(base, growth - 1.0))
                    .min(nanos(*cap))
            }
        }
    }

    fn base(&self, base: Duration, throttled: bool) -> Duration {
        if throttled {
            base.max(self.throttled_base)
        } else {
            base
        }
    }

    /// The range of AWS's article, drawn from after the cap; none where there is no base to start from.
    fn decorrelated(&self, previous: Duration, throttled: bool) -> Option<(u64, u64)> {
        let Shape::Exponential { base, cap, .. } = self.shape else {
            return None;
        };
        let cap = nanos(cap);
        let base = nanos(self.base(base, throttled)).min(cap);
        let upper = nanos(previous).max(base).saturating_mul(3).min(cap);
        Some((base, upper))
    }

    fn around(&self, nominal: u64, ratio: f64) -> (u64, u64) {
        let ratio = if ratio > 0.0 { ratio.min(1.0) } else { 0.0 };
        let cap = match self.shape {
            Shape::Constant(_) | Shape::Custom(_) => u64::MAX,
            Shape::Exponential { cap, .. } => nanos(cap),
        };
        let spread = scaled(nominal, ratio).min(nominal);
        (nominal - spread, nominal.saturating_add(spread).min(cap))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Saturates. Zero times infinity is not a number, which converts to zero.
fn scaled(nanos: u64, factor: f64) -> u64 {
    (nanos as f64 * factor).round() as u64
}

impl Default for Backoff {
    /// Exponential, from [50 ms](Self::DEFAULT_BASE) to [10 s](Self::DEFAULT_CAP).
    fn default() -> Self {
        Self::exponential(Self::DEFAULT_BASE, Self::DEFAULT_CAP)
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backoff")
            .field("shape", &self.shape)
            .field("jitter", &self.jitter)
            .field("throttled_base", &self.throttled_base)
            .finish()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(delay) => f.debug_tuple("Constant").field(delay).finish(),
            Self::Custom(_) => f.debug_tuple("Custom").finish_non_exhaustive(),
            Self::Exponential {
                base,
                cap,
                multiplier,
            } => f
                .debug_struct("Exponential")
                .field("base", base)
                .field("cap", cap)
                .field("multiplier", multiplier)
                .finish(),
        }
    }
}

/// How chance spreads a delay `d`, which has been capped before.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// From the base to three times the previous delay, or to the cap. Only of an exponential backoff, whose multiplier it does
    /// without: chance itself makes the delays grow.
    Decorrelated,
    /// From `d / 2` to `d`: where a shortest wait matters more than the herd.
    Equal,
    /// From zero to `d`.
    Full,
    /// `d`, always: for one caller alone, or for tests.
    None,
    /// From `d * (1 - r)` to `d * (1 + r)`, or to the cap of an exponential backoff; the delays in between are equally likely,
    /// the cap no more than another. `r` is above 0, and at most 1.
    Ratio(f64),
}

/// A number drawn evenly from 0 to 2^64 - 1: the chance that one delay depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(u64);

impl Sample {
    /// Takes a number that was drawn.
    #[must_use]
    pub const fn new(drawn: u64) -> Self {
        Self(drawn)
    }

    /// A number from `lower` to `upper`, both included, each as likely as the others to within one in 2^64 draws.
    pub(crate) fn within(self, lower: u64, upper: u64) -> u64 {
        let choices = u128::from(upper.saturating_sub(lower)) + 1;
        let chosen = (u128::from(self.0) * choices) >> u64::BITS;
        lower.saturating_add(u64::try_from(chosen).unwrap_or(u64::MAX))
    }
}

/// Why a [`Backoff`] cannot work.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum InvalidBackoff {
    /// The first delay is longer than the longest.
    BaseAboveCap {
        /// The first delay.
        base: Duration,
        /// The longest delay.
        cap: Duration,
    },
    /// Delays that grow from zero never grow.
    BaseZero,
    /// Decorrelated jitter grows from a base to a cap, which only an exponential backoff has.
    Decorrelated,
    /// Delays cannot grow by this.
    Multiplier {
        /// What the delays are multiplied by.
        multiplier: f64,
    },
    /// A delay cannot be spread by this much.
    Ratio {
        /// The part of the delay that chance adds or takes.
        ratio: f64,
    },
}

impl fmt::Display for InvalidBackoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BaseAboveCap { base, cap } => write!(
                f,
                "base of {base:?} above the cap of {cap:?}: every delay would be the cap"
            ),
            Self::BaseZero => f.write_str(
                "base of zero: delays that are multiplied would stay zero; not to wait at all is a constant backoff of zero",
            ),
            Self::Decorrelated => f.write_str(
                "decorrelated jitter without an exponential backoff: it grows from a base to a cap, and there are none",
            ),
            Self::Multiplier { multiplier } => write!(
                f,
                "multiplier of {multiplier}: it must be a finite number of at least 1, or delays would shrink"
            ),
            Self::Ratio { ratio } => write!(
                f,
                "jitter ratio of {ratio}: it must be above 0 and at most 1, or delays would not be spread, or be negative"
            ),
        }
    }
}

impl std::error::Error for InvalidBackoff {}
