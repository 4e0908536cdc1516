use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The state of the fault switch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Faults {
    mode: Mode,
    /// How long `slow` waits.
    latency_ms: u64,
    /// The share of calls that `flaky` refuses, from 0 to 1.
    rate: f64,
    /// After how many calls that it acted on the fault ends; 0: never.
    count: u64,
    /// Whether a known key gets its charge again. It outlives a fault that ends by its count.
    pub(super) dedupe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Ok,
    Down,
    Slow,
    Flaky,
    LoseResponse,
}

/// What the switch does to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// Answers 503 and charges nothing.
    Refuse,
    /// Charges, and answers late.
    Delay(Duration),
    /// Charges, and closes the connection without an answer.
    Lose,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            mode: Mode::Ok,
            latency_ms: 0,
            rate: 0.0,
            count: 0,
            dedupe: true,
        }
    }
}

impl Faults {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if (0.0..=1.0).contains(&self.rate) {
            Ok(())
        } else {
            Err("the rate must be from 0 to 1")
        }
    }

    /// What happens to the next call; it is counted if the fault acts on it.
    pub(super) fn strike(&mut self) -> Effect {
        let effect = match self.mode {
            Mode::Ok => Effect::None,
            Mode::Down => Effect::Refuse,
            Mode::Slow => Effect::Delay(Duration::from_millis(self.latency_ms)),
            Mode::Flaky if unit_sample() < self.rate => Effect::Refuse,
            Mode::Flaky => Effect::None,
            Mode::LoseResponse => Effect::Lose,
        };
        if effect != Effect::None && self.count > 0 {
            self.count -= 1;
            if self.count == 0 {
                self.mode = Mode::Ok;
            }
        }
        effect
    }
}

/// A number from 0 to 1, the latter left out. Without randomness it is 0, and every flaky call fails.
fn unit_sample() -> f64 {
    getrandom::u32().map_or(0.0, |sample| {
        f64::from(sample) / (f64::from(u32::MAX) + 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Faults {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn omitted_members_take_their_defaults() {
        assert_eq!(faults("{}"), Faults::default());
        assert_eq!(
            serde_json::to_value(Faults::default()).unwrap(),
            serde_json::json!({"mode": "ok", "latency_ms": 0, "rate": 0.0, "count": 0, "dedupe": true})
        );
    }

    #[test]
    fn a_count_ends_the_fault_and_keeps_deduplication_as_it_is() {
        let mut faults = faults(r#"{"mode": "lose_response", "count": 2, "dedupe": false}"#);

        assert_eq!(faults.strike(), Effect::Lose);
        assert_eq!(faults.strike(), Effect::Lose);
        assert_eq!(faults.strike(), Effect::None);
        assert!(!faults.dedupe);
    }

    #[test]
    fn flaky_acts_on_its_share_and_counts_only_those() {
        let mut never = faults(r#"{"mode": "flaky", "rate": 0.0, "count": 1}"#);
        assert!((0..100).all(|_| never.strike() == Effect::None));
        assert_eq!(never.count, 1);

        let mut always = faults(r#"{"mode": "flaky", "rate": 1.0}"#);
        assert!((0..100).all(|_| always.strike() == Effect::Refuse));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in [
            r#"{"mode": "broken"}"#,
            r#"{"latency": 5}"#,
            r#"{"count": -1}"#,
        ] {
            assert!(
                serde_json::from_str::<Faults>(text).is_err(),
                "{text} passed"
            );
        }
        for rate in ["-0.1", "1.1"] {
            let faults = faults(&format!(r#"{{"rate": {rate}}}"#));
            assert!(faults.check().is_err(), "{rate} passed");
        }
    }
}
