use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::backoff::Jitter;

/// No chance, so that delays can be told.
fn rules() -> Rules {
    Rules::default()
        .with_max_attempts(4)
        .with_backoff(Backoff::default().with_jitter(Jitter::None))
}

fn failure() -> Failure {
    Failure::new(SafetyClass::Transient, Cause::Fault)
}

fn not_processed() -> Failure {
    Failure::new(SafetyClass::NotProcessed, Cause::Fault)
}

fn after(hint: Duration) -> Failure {
    failure().with_hint(Some(Hint::After(hint)))
}

/// Nothing forbids a retry.
fn facts(failure: Failure) -> Facts {
    Facts {
        verdict: failure.into(),
        idempotent: true,
        replayable: true,
        remaining: Duration::MAX,
    }
}

fn decide(rules: &Rules, progress: Progress, facts: &Facts) -> Decision {
    rules.decide(progress, facts, Sample::new(0))
}

fn first(facts: &Facts) -> Decision {
    decide(&rules(), Progress::first(), facts)
}

fn retried(decision: Decision) -> (Duration, Progress) {
    match decision {
        Decision::Retry { delay, progress } => (delay, progress),
        Decision::Return(stopped_by) => panic!("not retried: {stopped_by:?}"),
    }
}

/// The delays of one call, whose attempts fail one after another.
fn delays(rules: &Rules, failures: &[Failure]) -> Vec<Duration> {
    let mut progress = Progress::first();
    failures
        .iter()
        .map(|failure| {
            let (delay, next) = retried(decide(rules, progress, &facts(*failure)));
            progress = next;
            delay
        })
        .collect()
}

const BASE: Duration = Backoff::DEFAULT_BASE;

#[test]
fn what_did_not_fail_is_returned() {
    for (verdict, stopped_by) in [
        (Verdict::Success, StoppedBy::Success),
        (Verdict::Ignored, StoppedBy::Ignored),
    ] {
        let facts = Facts {
            verdict,
            ..facts(failure())
        };

        assert_eq!(first(&facts), Decision::Return(stopped_by));
    }
}

#[test]
fn a_transient_failure_of_an_idempotent_request_is_retried_after_the_backoff() {
    let (delay, progress) = retried(first(&facts(failure())));

    assert_eq!(delay, BASE);
    assert_eq!(progress.attempts(), 2);
}

#[test]
fn delays_grow_from_attempt_to_attempt() {
    assert_eq!(
        delays(&rules(), &[failure(); 3]),
        [BASE, BASE * 2, BASE * 4]
    );
}

#[test]
fn a_permanent_failure_is_returned_even_of_an_idempotent_request() {
    let permanent = Failure::new(SafetyClass::Permanent, Cause::Fault);

    assert_eq!(
        first(&facts(permanent)),
        Decision::Return(StoppedBy::Permanent)
    );
}

#[test]
fn only_what_was_not_processed_is_retried_of_a_request_that_is_not_idempotent() {
    let once = |failure| Facts {
        idempotent: false,
        ..facts(failure)
    };

    assert_eq!(
        first(&once(failure())),
        Decision::Return(StoppedBy::NotIdempotent)
    );
    retried(first(&once(not_processed())));
}

#[test]
fn the_first_attempt_counts() {
    for max_attempts in 1..5 {
        let rules = rules().with_max_attempts(max_attempts);
        let mut progress = Progress::first();
        let mut attempts = 1;

        while let Decision::Retry { progress: next, .. } =
            decide(&rules, progress, &facts(failure()))
        {
            progress = next;
            attempts += 1;
        }

        assert_eq!(attempts, max_attempts);
        assert_eq!(
            decide(&rules, progress, &facts(failure())),
            Decision::Return(StoppedBy::Attempts)
        );
    }
}

#[test]
fn no_attempts_at_all_are_no_retries() {
    let rules = rules().with_max_attempts(0);

    assert_eq!(
        decide(&rules, Progress::first(), &facts(failure())),
        Decision::Return(StoppedBy::Attempts)
    );
}

#[test]
fn attempts_are_counted_to_the_last_number_and_no_further() {
    let rules = rules().with_max_attempts(u32::MAX);
    let progress = Progress {
        attempts: u32::MAX - 1,
        ..Progress::first()
    };

    let (delay, last) = retried(decide(&rules, progress, &facts(failure())));

    assert_eq!(delay, Backoff::DEFAULT_CAP);
    assert_eq!(last.attempts(), u32::MAX);
    assert_eq!(
        decide(&rules, last, &facts(failure())),
        Decision::Return(StoppedBy::Attempts)
    );
}

#[test]
fn a_request_that_cannot_be_sent_again_is_not() {
    let facts = Facts {
        replayable: false,
        ..facts(not_processed())
    };

    assert_eq!(first(&facts), Decision::Return(StoppedBy::Body));
}

#[test]
fn a_hint_to_stop_is_obeyed_even_if_nothing_was_processed() {
    for failure in [failure(), not_processed()] {
        let failure = failure.with_hint(Some(Hint::Stop));

        assert_eq!(first(&facts(failure)), Decision::Return(StoppedBy::Hint));
    }
}

#[test]
fn a_hint_is_waited_for_up_to_its_cap() {
    let cap = Rules::DEFAULT_HINT_CAP;

    let (delay, _) = retried(first(&facts(after(cap))));
    assert_eq!(delay, cap);

    let beyond = cap + Duration::from_nanos(1);
    assert_eq!(
        first(&facts(after(beyond))),
        Decision::Return(StoppedBy::Hint)
    );
}

#[test]
fn a_hint_is_a_floor_and_chance_adds_to_it() {
    let rules = Rules::default();
    let hint = Duration::from_secs(2);
    let delay = |sample| {
        retried(rules.decide(Progress::first(), &facts(after(hint)), Sample::new(sample))).0
    };

    assert_eq!(delay(0), hint);
    assert_eq!(delay(u64::MAX), hint + BASE);
}

#[test]
fn a_hint_shorter_than_the_backoff_does_not_shorten_it() {
    assert_eq!(retried(first(&facts(after(Duration::ZERO)))).0, BASE);
}

#[test]
fn a_hint_counts_also_where_the_next_attempt_could_follow_at_once() {
    let hint = Duration::from_secs(2);
    let failure = not_processed().with_hint(Some(Hint::After(hint)));

    assert_eq!(retried(first(&facts(failure))).0, hint);
}

#[test]
fn a_hint_beyond_the_deadline_is_not_waited_for() {
    let facts = Facts {
        remaining: Duration::from_secs(1),
        ..facts(after(Duration::from_secs(2)))
    };

    assert_eq!(first(&facts), Decision::Return(StoppedBy::Deadline));
}

#[test]
fn an_attempt_needs_its_least_time_after_the_wait() {
    let rules = rules().with_min_attempt_time(Duration::from_millis(7));
    let enough = BASE + Duration::from_millis(7);
    let with = |remaining| {
        let facts = Facts {
            remaining,
            ..facts(failure())
        };
        decide(&rules, Progress::first(), &facts)
    };

    retried(with(enough));
    assert_eq!(
        with(enough - Duration::from_nanos(1)),
        Decision::Return(StoppedBy::Deadline)
    );
    assert_eq!(with(Duration::ZERO), Decision::Return(StoppedBy::Deadline));
}

#[test]
fn what_was_not_processed_is_sent_again_at_once_but_only_once() {
    assert_eq!(
        delays(
            &rules(),
            &[not_processed(), not_processed(), not_processed()]
        ),
        [Duration::ZERO, BASE * 2, BASE * 4]
    );
}

#[test]
fn the_attempt_that_follows_at_once_may_come_after_others() {
    assert_eq!(
        delays(&rules(), &[failure(), not_processed(), not_processed()]),
        [BASE, Duration::ZERO, BASE * 4]
    );
}

#[test]
fn too_early_is_retried_once() {
    for class in [SafetyClass::NotProcessed, SafetyClass::Transient] {
        let too_early = facts(Failure::new(class, Cause::TooEarly));

        let (_, second) = retried(first(&too_early));
        assert_eq!(
            decide(&rules(), second, &too_early),
            Decision::Return(StoppedBy::Permanent)
        );

        let (_, third) = retried(decide(&rules(), second, &facts(failure())));
        assert_eq!(
            decide(&rules(), third, &too_early),
            Decision::Return(StoppedBy::Permanent),
            "{class:?}: not even after another failure"
        );
    }
}

#[test]
fn who_is_throttled_waits_longer() {
    let throttled = Failure::new(SafetyClass::Transient, Cause::Throttled);

    assert_eq!(
        delays(&rules(), &[throttled, throttled]),
        [Duration::from_secs(1), Duration::from_secs(2)]
    );
}

#[test]
fn decorrelated_delays_grow_from_the_last_one() {
    let rules = rules().with_backoff(Backoff::default().with_jitter(Jitter::Decorrelated));
    let longest =
        |progress| retried(rules.decide(progress, &facts(failure()), Sample::new(u64::MAX)));

    let (delay, progress) = longest(Progress::first());
    assert_eq!(delay, BASE * 3);
    let (delay, _) = longest(progress);
    assert_eq!(delay, BASE * 9);
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let mut words: Vec<_> = StoppedBy::ALL
        .iter()
        .map(|reason| reason.as_str())
        .collect();
    words.sort_unstable();
    words.dedup();

    assert_eq!(words.len(), StoppedBy::ALL.len());
}

/// The reasons that a decision may give, in the order of the rules: who asks the budget, and waits until the service is ready, does
/// so after it.
const DECIDED: [StoppedBy; 8] = [
    StoppedBy::Success,
    StoppedBy::Ignored,
    StoppedBy::Permanent,
    StoppedBy::NotIdempotent,
    StoppedBy::Attempts,
    StoppedBy::Body,
    StoppedBy::Hint,
    StoppedBy::Deadline,
];

#[test]
fn reasons_are_numbered_in_the_order_in_which_they_are_looked_at() {
    assert!(StoppedBy::ALL.starts_with(&DECIDED));
    assert_eq!(
        StoppedBy::ALL[DECIDED.len()..],
        [StoppedBy::Budget, StoppedBy::Unready]
    );
}

fn classes() -> impl Strategy<Value = SafetyClass> {
    prop_oneof![
        Just(SafetyClass::NotProcessed),
        Just(SafetyClass::Transient),
        Just(SafetyClass::Permanent),
    ]
}

fn hints() -> impl Strategy<Value = Option<Hint>> {
    prop_oneof![
        Just(None),
        Just(Some(Hint::Stop)),
        any::<Duration>().prop_map(|hint| Some(Hint::After(hint))),
        (0..100_u64).prop_map(|hint| Some(Hint::After(Duration::from_secs(hint)))),
    ]
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    let causes = proptest::sample::select(Cause::ALL);
    prop_oneof![
        1 => Just(Verdict::Success),
        1 => Just(Verdict::Ignored),
        8 => (classes(), causes, hints()).prop_map(|(class, cause, hint)| {
            Failure::new(class, cause).with_hint(hint).into()
        }),
    ]
}

fn progresses() -> impl Strategy<Value = Progress> {
    let attempts = prop_oneof![1_u32..6, any::<u32>()];
    (attempts, any::<Duration>(), any::<bool>(), any::<bool>()).prop_map(
        |(attempts, waited, hurried, was_too_early)| Progress {
            attempts,
            waited,
            hurried,
            was_too_early,
        },
    )
}

fn times() -> impl Strategy<Value = Duration> {
    prop_oneof![
        any::<Duration>(),
        (0..20_000_u64).prop_map(Duration::from_millis),
        Just(Duration::ZERO),
        Just(Duration::MAX),
    ]
}

/// Whether this reason holds, whatever the others do. The wait is known where there may be one.
fn holds(
    reason: StoppedBy,
    rules: &Rules,
    progress: Progress,
    facts: &Facts,
    sample: Sample,
) -> bool {
    let failure = match facts.verdict {
        Verdict::Success => return reason == StoppedBy::Success,
        Verdict::Ignored => return reason == StoppedBy::Ignored,
        Verdict::Failure(failure) => failure,
    };
    match reason {
        StoppedBy::Success | StoppedBy::Ignored | StoppedBy::Budget | StoppedBy::Unready => false,
        StoppedBy::Permanent => {
            failure.class() == SafetyClass::Permanent
                || (failure.cause() == Cause::TooEarly && progress.was_too_early)
        }
        StoppedBy::NotIdempotent => failure.class() == SafetyClass::Transient && !facts.idempotent,
        StoppedBy::Attempts => progress.attempts >= rules.max_attempts(),
        StoppedBy::Body => !facts.replayable,
        StoppedBy::Hint => match failure.hint() {
            Some(Hint::After(hint)) => hint > rules.hint_cap,
            Some(Hint::Stop) => true,
            None => false,
        },
        StoppedBy::Deadline => {
            let wait = rules.delay(progress, failure, sample);
            wait.checked_add(rules.min_attempt_time)
                .unwrap_or(Duration::MAX)
                > facts.remaining
        }
    }
}

proptest! {
    #[test]
    fn of_several_reasons_the_first_in_order_counts(
        verdict in verdicts(),
        idempotent in any::<bool>(),
        replayable in prop::bool::weighted(0.8),
        remaining in times(),
        progress in progresses(),
        max_attempts in 0_u32..8,
        min_attempt_time in times(),
        drawn in any::<u64>(),
    ) {
        let rules = Rules::default()
            .with_max_attempts(max_attempts)
            .with_min_attempt_time(min_attempt_time);
        let facts = Facts { verdict, idempotent, replayable, remaining };
        let sample = Sample::new(drawn);

        let expected = DECIDED
            .into_iter()
            .find(|reason| holds(*reason, &rules, progress, &facts, sample));

        match (rules.decide(progress, &facts, sample), expected) {
            (Decision::Return(stopped_by), Some(first)) => prop_assert_eq!(stopped_by, first),
            (Decision::Retry { progress: next, .. }, None) => {
                prop_assert_eq!(next.attempts(), progress.attempts() + 1);
            }
            (decision, expected) => prop_assert!(false, "{decision:?} where {expected:?} holds"),
        }
    }

    #[test]
    fn a_wait_fits_before_the_deadline_and_is_no_shorter_than_the_hint(
        class in prop_oneof![Just(SafetyClass::NotProcessed), Just(SafetyClass::Transient)],
        hint in proptest::option::of((0..100_u64).prop_map(Duration::from_secs)),
        remaining in times(),
        drawn in any::<u64>(),
    ) {
        let rules = Rules::default();
        let failure = Failure::new(class, Cause::Fault).with_hint(hint.map(Hint::After));
        let facts = Facts { remaining, ..facts(failure) };

        if let Decision::Retry { delay, .. } = rules.decide(Progress::first(), &facts, Sample::new(drawn)) {
            prop_assert!(delay + Rules::DEFAULT_MIN_ATTEMPT_TIME <= remaining);
            prop_assert!(delay >= hint.unwrap_or_default());
            prop_assert!(hint.unwrap_or_default() <= Rules::DEFAULT_HINT_CAP);
        }
    }
}
