//! When to stop calling what fails, and how to come back.
//!
//! Two parts, which the owner of a breaker puts together:
//!
//! - [`Statistics`] tell from the outcomes of calls when it is time to stop. All threads share them, and take no lock.
//! - The [`Machine`] knows the states, and who may pass. It is a plain value, for the few moments in which something changes; its
//!   owner keeps it behind a lock, and shows the others the [state](Machine::state) and the [generation](Machine::generation) that
//!   it is in.
//!
//! Why generations: a call takes its time, and its outcome may arrive when the breaker has opened, probed and closed since. It says
//! nothing of what is. So each admission is stamped with the generation in which it was given, each change of state begins a new
//! one, and outcomes of others are dropped: by the machine, and in the same atomic step in which a number would change, by the
//! statistics.
//!
//! Why several statistics: a run of failures in a row shows at once that everything fails, at any rate of calls, and never that half
//! of it does. A rate shows that too, but says nothing of few calls.
//!
//! What happens on a cold start: a rate says nothing before a minimum of calls is in its window. A new generation starts cold.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use steadfast_core::{
//!     backoff::Sample,
//!     breaker::{Admission, BreakerConfig, Machine, Outcome, Report, Rules, State, Statistics},
//! };
//!
//! # #[expect(clippy::disallowed_methods, reason = "the example is the outermost caller")]
//! let now = Instant::now();
//! let chance = Sample::new(0);
//! let rules = Rules::new(BreakerConfig::default().with_consecutive_failures(2).with_probes(1, 1))?;
//! let statistics = Statistics::new(&rules, now);
//! let mut machine = Machine::new(rules, now);
//!
//! let failure = Report::new(Outcome::Failure);
//! let generation = machine.generation();
//! assert_eq!(statistics.record(generation, &failure, || now), None);
//! let trip = statistics.record(generation, &failure, || now).expect("the second in a row");
//! machine.trip(generation, trip, None, now, chance);
//! assert_eq!(machine.state(), State::Open);
//!
//! let later = now + Duration::from_secs(30);
//! let (Admission::Admitted(probe), _) = machine.admit(later, chance) else {
//!     panic!("the open time is over");
//! };
//! machine.settle(probe.generation(), &Report::new(Outcome::Success), later, chance);
//! assert_eq!(machine.state(), State::Closed);
//! # Ok::<(), steadfast_core::breaker::InvalidBreaker>(())
//! ```

mod admission;
mod config;
mod invalid;
mod machine;
mod outcome;
mod state;
mod statistics;
mod window;

#[cfg(all(loom, test))]
mod loom;

pub use self::{
    admission::{Admission, Refusal, Rejection, Ticket},
    config::{BreakerConfig, Rules, Window},
    invalid::InvalidBreaker,
    machine::Machine,
    outcome::{Outcome, Report},
    state::{Counts, Reason, State, Transition, Trip},
    statistics::Statistics,
};
