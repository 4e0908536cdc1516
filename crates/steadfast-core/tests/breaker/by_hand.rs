//! What operators say, and what each state does with calls.

use steadfast_core::breaker::{
    Admission, Counts, Outcome, Reason, Refusal, Report, State, Ticket, Transition,
};

use crate::support::{Breaker, NANO, OPEN_FOR, config, millis, seconds};

/// A command, and the state it leads to.
type Command = (fn(&mut Breaker) -> Option<Transition>, State);

const COMMANDS: [Command; 5] = [
    (|b| b.machine.force_open(), State::ForcedOpen),
    (|b| b.machine.force_closed(b.now), State::Closed),
    (|b| b.machine.disable(), State::Disabled),
    (|b| b.machine.observe_only(), State::ObserveOnly),
    (|b| b.machine.reset(b.now), State::Closed),
];

#[test]
fn each_command_leads_to_its_state_from_every_other() {
    for &from in State::ALL {
        for (command, to) in COMMANDS.into_iter().filter(|(_, to)| *to != from) {
            let mut breaker = Breaker::in_state(from);
            let generation = breaker.generation();

            let transition = command(&mut breaker).unwrap();

            assert_eq!((transition.from(), transition.to()), (from, to));
            assert_eq!(transition.reason(), Reason::ByHand);
            assert_eq!(transition.counts(), Counts::default());
            assert_eq!(transition.open_for(), None);
            assert!(!transition.is_hypothetical());
            assert_eq!(breaker.state(), to);
            assert_eq!(breaker.generation(), generation + 1);
            assert_eq!(breaker.machine.open_until(), None);
        }
    }
}

#[test]
fn a_command_that_changes_nothing_tells_nothing() {
    for (command, to) in COMMANDS.into_iter().take(4) {
        let mut breaker = Breaker::in_state(to);
        let generation = breaker.generation();

        assert_eq!(command(&mut breaker), None);
        assert_eq!(breaker.generation(), generation, "{to:?} goes on counting");
        assert_eq!(breaker.state(), to);
    }
}

#[test]
fn a_reset_of_what_is_closed_counts_anew_and_tells_nothing() {
    let mut breaker = Breaker::in_state(State::Closed);
    let before = breaker.ticket();

    assert_eq!(breaker.machine.reset(breaker.now), None);

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.generation(), before.generation() + 1);
    assert_eq!(breaker.trip_of(before.generation(), None), None);
}

#[test]
fn forced_open_rejects_for_ever() {
    let mut breaker = Breaker::in_state(State::ForcedOpen);

    for _ in 0..3 {
        let rejection = breaker.rejection();
        assert_eq!(rejection.refusal(), Refusal::Forced);
        assert_eq!(rejection.retry_after(), OPEN_FOR);
        breaker.wait(OPEN_FOR * 1_000);
    }
    assert_eq!(breaker.trip(), None);
    assert_eq!(breaker.state(), State::ForcedOpen);
}

#[test]
fn disabled_admits_all_and_never_trips() {
    let mut breaker = Breaker::in_state(State::Disabled);
    let generation = breaker.generation();

    assert_eq!(breaker.trip(), None);
    for _ in 0..3 {
        let ticket = breaker.ticket();
        assert!(!ticket.is_probe());
        assert_eq!(ticket.generation(), generation);
    }
    assert_eq!(breaker.state(), State::Disabled);
    assert_eq!(breaker.generation(), generation);
}

#[test]
fn only_observed_it_tells_once_per_episode_that_it_would_have_opened() {
    let mut breaker = Breaker::in_state(State::ObserveOnly);
    let before = breaker.ticket();

    let told = breaker.trip().unwrap();

    assert_eq!((told.from(), told.to()), (State::ObserveOnly, State::Open));
    assert!(told.is_hypothetical());
    assert_eq!(told.reason(), Reason::ConsecutiveFailures);
    assert_eq!((told.counts().calls, told.counts().failures), (1, 1));
    assert_eq!(told.open_for(), Some(OPEN_FOR));
    assert_eq!(breaker.state(), State::ObserveOnly);
    assert_eq!(breaker.machine.open_until(), None);
    assert_eq!(breaker.generation(), before.generation() + 1);
    assert!(!breaker.ticket().is_probe());

    breaker.wait(OPEN_FOR - NANO);
    assert_eq!(breaker.trip(), None);
    assert_eq!(breaker.generation(), before.generation() + 1);
    breaker.wait(NANO);
    assert_eq!(breaker.trip_of(before.generation(), None), None);
    assert!(breaker.trip().unwrap().is_hypothetical());
}

#[test]
fn observing_anew_begins_an_episode() {
    let mut breaker = Breaker::in_state(State::ObserveOnly);
    breaker.trip().unwrap();

    breaker.machine.disable().unwrap();
    breaker.machine.observe_only().unwrap();

    assert!(breaker.trip().unwrap().is_hypothetical());
}

#[test]
fn what_would_have_opened_lengthens_no_row() {
    let mut breaker = Breaker::new(
        config()
            .with_open_for(seconds(1))
            .with_open_growth(2.0, seconds(60)),
    );
    breaker.machine.observe_only().unwrap();
    breaker.trip().unwrap();

    breaker.machine.force_closed(breaker.now).unwrap();

    assert_eq!(breaker.open(), seconds(1));
}

#[test]
fn closed_by_hand_it_trips_as_ever_and_the_row_goes_on() {
    let mut breaker = Breaker::new(
        config()
            .with_open_for(seconds(1))
            .with_open_growth(2.0, seconds(60)),
    );
    assert_eq!(breaker.open(), seconds(1));

    breaker.machine.force_closed(breaker.now).unwrap();
    assert_eq!(breaker.open(), seconds(2));

    breaker.machine.force_closed(breaker.now).unwrap();
    breaker.wait(seconds(2));
    assert_eq!(breaker.open(), seconds(1), "it held as long as it was open");
}

#[test]
fn a_reset_ends_the_row_of_openings() {
    let mut breaker = Breaker::new(
        config()
            .with_open_for(seconds(1))
            .with_open_growth(2.0, seconds(60)),
    );
    for _ in 0..2 {
        assert_eq!(breaker.open(), seconds(1));
        assert_eq!(breaker.fail_to_come_back(), seconds(2));
        breaker.machine.reset(breaker.now).unwrap();
    }

    assert_eq!(breaker.open(), seconds(1));
    breaker.machine.force_closed(breaker.now).unwrap();
    breaker.machine.reset(breaker.now);
    assert_eq!(breaker.open(), seconds(1), "a reset of what is closed too");
}

#[test]
fn what_was_admitted_before_a_command_decides_nothing_after_it() {
    for (command, to) in COMMANDS {
        let mut breaker = Breaker::in_state(State::Closed);
        let called = breaker.ticket();
        let probe = breaker.half_open();

        command(&mut breaker).unwrap();
        let generation = breaker.generation();

        assert_eq!(breaker.trip_of(called.generation(), None), None);
        assert_eq!(breaker.trip_of(probe.generation(), None), None);
        for outcome in Outcome::ALL {
            let report = Report::new(*outcome);
            let heard =
                breaker
                    .machine
                    .settle(probe.generation(), &report, breaker.now, breaker.chance);
            assert_eq!(heard, (false, None));
        }
        assert!(!breaker.machine.release(probe.generation()));
        assert_eq!((breaker.state(), breaker.generation()), (to, generation));
    }
}

#[test]
fn a_trip_where_it_cannot_open_changes_nothing() {
    for state in [
        State::Open,
        State::HalfOpen,
        State::ForcedOpen,
        State::Disabled,
    ] {
        let mut breaker = Breaker::in_state(state);
        let (generation, until) = (breaker.generation(), breaker.machine.open_until());

        assert_eq!(breaker.trip_with_hint(Some(millis(1))), None);

        assert_eq!(breaker.state(), state);
        assert_eq!(breaker.generation(), generation);
        assert_eq!(breaker.machine.open_until(), until);
    }
}

#[test]
fn outcomes_of_no_probe_are_not_settled() {
    for state in [
        State::Closed,
        State::Open,
        State::ForcedOpen,
        State::Disabled,
        State::ObserveOnly,
    ] {
        let mut breaker = Breaker::in_state(state);
        let generation = breaker.generation();

        let report = Report::new(Outcome::Failure);
        let heard = breaker
            .machine
            .settle(generation, &report, breaker.now, breaker.chance);

        assert_eq!(heard, (false, None));
        assert!(!breaker.machine.release(generation));
        assert_eq!(breaker.generation(), generation);
    }
}

#[test]
fn a_ticket_of_a_closed_machine_is_what_it_gives() {
    let mut breaker = Breaker::in_state(State::Closed);

    let (admission, transition) = breaker.admit();

    let ticket = Ticket::closed(breaker.generation());
    assert_eq!(admission, Admission::Admitted(ticket));
    assert_eq!(transition, None);
    assert_eq!(breaker.generation(), 1);
}

#[test]
fn every_word_is_one_that_metrics_take() {
    let states = State::ALL.iter().map(|word| word.as_str());
    let reasons = Reason::ALL.iter().map(|word| word.as_str());
    let refusals = Refusal::ALL.iter().map(|word| word.as_str());
    let outcomes = Outcome::ALL.iter().map(|word| word.as_str());

    assert_eq!(
        states.collect::<Vec<_>>(),
        [
            "closed",
            "open",
            "half_open",
            "forced_open",
            "disabled",
            "observe_only"
        ]
    );
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        [
            "consecutive_failures",
            "failure_rate",
            "slow_calls",
            "open_time_over",
            "probes_failed",
            "probes_silent",
            "probes_succeeded",
            "by_hand"
        ]
    );
    assert_eq!(refusals.collect::<Vec<_>>(), ["open", "probing", "forced"]);
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        ["success", "failure", "throttled", "ignored"]
    );
}
