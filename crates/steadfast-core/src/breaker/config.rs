use std::time::Duration;

use super::InvalidBreaker;

/// The calls that a rate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Window {
    /// The last so many.
    Calls(u32),
    /// Those of the last so much time. It slides in steps of a tenth, the latest of which has just begun.
    Time(Duration),
}

/// A part of the calls that is too large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RateRule {
    pub(super) rate: f64,
    pub(super) window: Window,
    pub(super) minimum: u32,
}

/// The calls that are slow, and a part of them that is too large.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SlowRule {
    pub(super) threshold: Duration,
    pub(super) rule: RateRule,
}

/// What probes must show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ProbeRule {
    /// So many succeed in a row.
    Successes(u32),
    /// Of so many, less than this part fails.
    Rate { rate: f64, calls: u32 },
}

/// The numbers of a breaker.
///
/// Setters take any value; [`Rules::new`] checks each of them, and each pair. Rules that trip can be combined: any of them may.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    pub(super) consecutive_failures: Option<u32>,
    pub(super) failure_rate: Option<RateRule>,
    pub(super) slow_calls: Option<SlowRule>,
    pub(super) open_for: Duration,
    pub(super) multiplier: f64,
    pub(super) open_cap: Duration,
    pub(super) jitter: f64,
    pub(super) hint_cap: Duration,
    pub(super) probes_at_a_time: u32,
    pub(super) probe_rule: ProbeRule,
    pub(super) half_open_limit: Duration,
    pub(super) least_wait: Duration,
}

impl BreakerConfig {
    /// 5 in a row, as Finagle has it: at 1 % of failures they come once in ten billion calls.
    pub const DEFAULT_CONSECUTIVE_FAILURES: u32 = 5;
    /// Half of the calls, as Hystrix and Resilience4j have it.
    pub const DEFAULT_FAILURE_RATE: f64 = 0.5;
    /// Of the last 30 s: longer than a deployment's hiccup, shorter than an operator's patience.
    pub const DEFAULT_WINDOW: Duration = Duration::from_secs(30);
    /// 20, as Hystrix has it: one of two is no rate.
    pub const DEFAULT_MINIMUM_CALLS: u32 = 20;
    /// 30 s: long enough for a process to start.
    pub const DEFAULT_OPEN_FOR: Duration = Duration::from_secs(30);
    /// A tenth, so that many clients of one destination do not come back at one moment.
    pub const DEFAULT_JITTER: f64 = 0.1;
    /// 60 s: whatever a destination asks for, it is tried again each minute.
    pub const DEFAULT_HINT_CAP: Duration = Duration::from_secs(60);
    /// 1 at a time: what has just come back is not met by everybody.
    pub const DEFAULT_PROBES_AT_A_TIME: u32 = 1;
    /// 3 in a row: one success may be luck.
    pub const DEFAULT_PROBE_SUCCESSES: u32 = 3;
    /// 30 s: a probe that tells nothing for so long tells that the destination does not answer.
    pub const DEFAULT_HALF_OPEN_LIMIT: Duration = Duration::from_secs(30);
    /// 100 ms: most destinations in good health answer within it, and a caller who waits for less says more of itself.
    pub const DEFAULT_LEAST_WAIT: Duration = Duration::from_millis(100);
    /// The most calls that a [window of calls](Window::Calls) may have: each costs eight bytes.
    pub const MAX_WINDOW_CALLS: u32 = 100_000;
    /// The longest time that any setting may have: 365 days.
    pub const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    /// The shortest [window of time](Window::Time): 10 ms.
    pub const MIN_WINDOW_TIME: Duration = Duration::from_millis(10);
    /// The longest window of time: an hour, in a tenth of which each lane, of eight at most, can count 46,000 calls a second.
    pub const MAX_WINDOW_TIME: Duration = Duration::from_secs(60 * 60);

    /// Opens when so many calls failed in a row. Default [5](Self::DEFAULT_CONSECUTIVE_FAILURES).
    #[must_use]
    pub const fn with_consecutive_failures(self, failures: u32) -> Self {
        Self {
            consecutive_failures: Some(failures),
            ..self
        }
    }

    /// Does not look at failures in a row.
    #[must_use]
    pub const fn without_consecutive_failures(self) -> Self {
        Self {
            consecutive_failures: None,
            ..self
        }
    }

    /// Opens when this part of the calls in the window failed, or more, and there are at least `minimum` calls in it. Default
    /// [half](Self::DEFAULT_FAILURE_RATE) of at least [20](Self::DEFAULT_MINIMUM_CALLS) in [30 s](Self::DEFAULT_WINDOW).
    #[must_use]
    pub const fn with_failure_rate(self, rate: f64, window: Window, minimum: u32) -> Self {
        Self {
            failure_rate: Some(RateRule {
                rate,
                window,
                minimum,
            }),
            ..self
        }
    }

    /// Does not look at the rate of failures: then no clock is read for calls that succeed.
    #[must_use]
    pub const fn without_failure_rate(self) -> Self {
        Self {
            failure_rate: None,
            ..self
        }
    }

    /// Opens when this part of the calls in the window took as long as `threshold`, or longer, and there are at least `minimum` calls
    /// in it. A slow probe has failed. Default: no call is slow.
    #[must_use]
    pub const fn with_slow_calls(
        self,
        threshold: Duration,
        rate: f64,
        window: Window,
        minimum: u32,
    ) -> Self {
        let rule = RateRule {
            rate,
            window,
            minimum,
        };
        Self {
            slow_calls: Some(SlowRule { threshold, rule }),
            ..self
        }
    }

    /// How long no call passes once it has opened. Default [30 s](Self::DEFAULT_OPEN_FOR).
    #[must_use]
    pub const fn with_open_for(self, open_for: Duration) -> Self {
        Self { open_for, ..self }
    }

    /// How long no call passes once it has opened, for the first time in a row.
    #[must_use]
    pub const fn open_for(&self) -> Duration {
        self.open_for
    }

    /// Multiplies the open time with each opening in a row, up to `cap`. A close that held for as long as it had been open before
    /// ends the row. Default: no growth.
    #[must_use]
    pub const fn with_open_growth(self, multiplier: f64, cap: Duration) -> Self {
        Self {
            multiplier,
            open_cap: cap,
            ..self
        }
    }

    /// Lengthens each open time by chance, up to this part of it. Default [a tenth](Self::DEFAULT_JITTER).
    #[must_use]
    pub const fn with_open_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// The longest time for which a destination may ask to be left alone; what it asks for beyond that is not heard. Default
    /// [60 s](Self::DEFAULT_HINT_CAP).
    #[must_use]
    pub const fn with_hint_cap(self, hint_cap: Duration) -> Self {
        Self { hint_cap, ..self }
    }

    /// Lets so many probes pass at a time, and closes when so many succeeded in a row; the first that fails opens it again. Default
    /// [1](Self::DEFAULT_PROBES_AT_A_TIME) and [3](Self::DEFAULT_PROBE_SUCCESSES).
    #[must_use]
    pub const fn with_probes(self, at_a_time: u32, successes: u32) -> Self {
        Self {
            probes_at_a_time: at_a_time,
            probe_rule: ProbeRule::Successes(successes),
            ..self
        }
    }

    /// Lets so many probes pass at a time, and so many altogether, of which it opens again if this part fails, or more, and closes
    /// otherwise: as soon as the probes that are left could not change it.
    #[must_use]
    pub const fn with_probe_rate(self, at_a_time: u32, rate: f64, calls: u32) -> Self {
        Self {
            probes_at_a_time: at_a_time,
            probe_rule: ProbeRule::Rate { rate, calls },
            ..self
        }
    }

    /// How long probes may tell nothing good: since it began to probe, or since one succeeded. The time after a success in which
    /// nobody comes does not count. Default [30 s](Self::DEFAULT_HALF_OPEN_LIMIT).
    #[must_use]
    pub const fn with_half_open_limit(self, limit: Duration) -> Self {
        Self {
            half_open_limit: limit,
            ..self
        }
    }

    /// How long a call must have waited for it to be a failure of its destination that the caller's time was over. Of a time limit
    /// that was chosen for the destination, half is enough. What a healthy destination answers within on a bad day is a good value:
    /// with less, callers in a hurry open the breaker for all; with more than any caller waits, a destination that hangs is not
    /// noticed. Zero: each such call is a failure. Default [100 ms](Self::DEFAULT_LEAST_WAIT).
    #[must_use]
    pub const fn with_least_wait(self, time: Duration) -> Self {
        Self {
            least_wait: time,
            ..self
        }
    }

    /// How long a call must have waited for it to be a failure of its destination that the caller's time was over.
    #[must_use]
    pub const fn least_wait(&self) -> Duration {
        self.least_wait
    }

    fn check(&self) -> Result<(), InvalidBreaker> {
        if self.consecutive_failures.is_none()
            && self.failure_rate.is_none()
            && self.slow_calls.is_none()
        {
            return Err(InvalidBreaker::NeverOpens);
        }
        if self.consecutive_failures == Some(0) {
            return Err(InvalidBreaker::zero("consecutive_failures"));
        }
        if let Some(rule) = &self.failure_rate {
            rule.check("failure_rate")?;
        }
        if let Some(SlowRule { threshold, rule }) = &self.slow_calls {
            check_time("slow_calls", *threshold)?;
            rule.check("slow_calls")?;
        }

        check_time("open_for", self.open_for)?;
        if !(self.multiplier >= 1.0 && self.multiplier.is_finite()) {
            return Err(InvalidBreaker::Multiplier {
                multiplier: self.multiplier,
            });
        }
        check_time("open_cap", self.open_cap)?;
        if self.multiplier > 1.0 && self.open_cap < self.open_for {
            return Err(InvalidBreaker::CapBelowOpenTime {
                open_for: self.open_for,
                cap: self.open_cap,
            });
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(InvalidBreaker::Jitter {
                jitter: self.jitter,
            });
        }
        if self.hint_cap > Self::MAX_TIME {
            return Err(InvalidBreaker::too_long("hint_cap"));
        }

        if self.probes_at_a_time == 0 {
            return Err(InvalidBreaker::zero("probes_at_a_time"));
        }
        match self.probe_rule {
            ProbeRule::Successes(0) => return Err(InvalidBreaker::zero("probe_successes")),
            ProbeRule::Successes(_) => {}
            ProbeRule::Rate { rate, calls } => {
                check_rate("probe_rate", rate)?;
                if calls < self.probes_at_a_time {
                    return Err(InvalidBreaker::ProbeCalls {
                        calls,
                        at_a_time: self.probes_at_a_time,
                    });
                }
            }
        }
        if self.least_wait > Self::MAX_TIME {
            return Err(InvalidBreaker::too_long("least_wait"));
        }
        check_time("half_open_limit", self.half_open_limit)
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(Self::DEFAULT_CONSECUTIVE_FAILURES),
            failure_rate: Some(RateRule {
                rate: Self::DEFAULT_FAILURE_RATE,
                window: Window::Time(Self::DEFAULT_WINDOW),
                minimum: Self::DEFAULT_MINIMUM_CALLS,
            }),
            slow_calls: None,
            open_for: Self::DEFAULT_OPEN_FOR,
            multiplier: 1.0,
            open_cap: Self::DEFAULT_OPEN_FOR,
            jitter: Self::DEFAULT_JITTER,
            hint_cap: Self::DEFAULT_HINT_CAP,
            probes_at_a_time: Self::DEFAULT_PROBES_AT_A_TIME,
            probe_rule: ProbeRule::Successes(Self::DEFAULT_PROBE_SUCCESSES),
            half_open_limit: Self::DEFAULT_HALF_OPEN_LIMIT,
            least_wait: Self::DEFAULT_LEAST_WAIT,
        }
    }
}

impl RateRule {
    fn check(&self, setting: &'static str) -> Result<(), InvalidBreaker> {
        check_rate(setting, self.rate)?;
        if self.minimum == 0 {
            return Err(InvalidBreaker::zero("minimum"));
        }
        match self.window {
            Window::Calls(calls) => {
                if calls > BreakerConfig::MAX_WINDOW_CALLS {
                    return Err(InvalidBreaker::WindowCalls { calls });
                }
                if self.minimum > calls {
                    return Err(InvalidBreaker::Minimum {
                        minimum: self.minimum,
                        calls,
                    });
                }
            }
            Window::Time(time) => {
                let times = BreakerConfig::MIN_WINDOW_TIME..=BreakerConfig::MAX_WINDOW_TIME;
                if !times.contains(&time) {
                    return Err(InvalidBreaker::WindowTime { time });
                }
            }
        }
        Ok(())
    }
}

fn check_rate(setting: &'static str, rate: f64) -> Result<(), InvalidBreaker> {
    // Below a billionth it would be none.
    if (1e-9..=1.0).contains(&rate) {
        Ok(())
    } else {
        Err(InvalidBreaker::Rate { setting, rate })
    }
}

fn check_time(setting: &'static str, time: Duration) -> Result<(), InvalidBreaker> {
    if time.is_zero() {
        Err(InvalidBreaker::zero(setting))
    } else if time > BreakerConfig::MAX_TIME {
        Err(InvalidBreaker::too_long(setting))
    } else {
        Ok(())
    }
}

/// The numbers of a breaker that can work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules(BreakerConfig);

impl Rules {
    /// Checks each number, and each pair.
    ///
    /// # Errors
    ///
    /// [`InvalidBreaker`] names the first value, or pair, that cannot work.
    pub fn new(config: BreakerConfig) -> Result<Self, InvalidBreaker> {
        config.check()?;
        Ok(Self(config))
    }

    /// The numbers.
    #[must_use]
    pub const fn config(&self) -> &BreakerConfig {
        &self.0
    }

    /// Whether a call is slow.
    pub(super) fn is_slow(&self, took: Option<Duration>) -> bool {
        match (&self.0.slow_calls, took) {
            (Some(slow), Some(took)) => took >= slow.threshold,
            (Some(_), None) | (None, _) => false,
        }
    }
}

impl Default for Rules {
    /// Those of [`BreakerConfig::default`].
    fn default() -> Self {
        Self(BreakerConfig::default())
    }
}
