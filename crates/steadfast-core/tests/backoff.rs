//! Delays: their bounds for any input at all, and how chance fills them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use proptest::{num::f64 as floats, prelude::*, sample::select};
use steadfast_core::backoff::{Backoff, InvalidBackoff, Jitter, Sample};

const BASE: Duration = Duration::from_millis(50);
const CAP: Duration = Duration::from_secs(10);
const JITTERS: [Jitter; 5] = [
    Jitter::Decorrelated,
    Jitter::Equal,
    Jitter::Full,
    Jitter::None,
    Jitter::Ratio(0.3),
];

fn exponential() -> Backoff {
    Backoff::exponential(BASE, CAP)
}

fn nominal(backoff: &Backoff, retry: u32) -> Duration {
    let without_chance = backoff.clone().with_jitter(Jitter::None);
    without_chance.delay(retry, Duration::ZERO, false, Sample::new(0))
}

/// The shortest delay and the longest.
fn ends(backoff: &Backoff, retry: u32, previous: Duration, throttled: bool) -> [Duration; 2] {
    [0, u64::MAX].map(|drawn| backoff.delay(retry, previous, throttled, Sample::new(drawn)))
}

fn first_ends(backoff: &Backoff) -> [Duration; 2] {
    ends(backoff, 1, Duration::ZERO, false)
}

fn millis<const N: usize>(millis: [u64; N]) -> [Duration; N] {
    millis.map(Duration::from_millis)
}

// === Shapes ===

#[test]
fn exponential_delays_double_up_to_the_cap() {
    let delays = [1, 2, 3, 8, 9, 1000, u32::MAX].map(|retry| nominal(&exponential(), retry));

    assert_eq!(
        delays,
        millis([50, 100, 200, 6_400, 10_000, 10_000, 10_000])
    );
}

#[test]
fn another_multiplier_grows_otherwise() {
    let growing = exponential().with_multiplier(1.5);
    assert_eq!(
        [1, 2, 3].map(|retry| nominal(&growing, retry)),
        [50_000, 75_000, 112_500].map(Duration::from_micros)
    );

    let steady = exponential().with_multiplier(1.0);
    assert_eq!([1, 9].map(|retry| nominal(&steady, retry)), [BASE; 2]);
}

#[test]
fn the_retry_before_the_first_counts_as_the_first() {
    assert_eq!(nominal(&exponential(), 0), BASE);
}

#[test]
fn constant_delays_stay() {
    let constant = Backoff::constant(BASE).with_multiplier(3.0);

    assert_eq!([1, 2, 99].map(|retry| nominal(&constant, retry)), [BASE; 3]);
}

#[test]
fn custom_delays_are_told_the_number_of_the_retry() {
    let custom = Backoff::custom(|retry| Duration::from_secs(retry.into()));

    assert_eq!(
        [1, 2, 7].map(|retry| nominal(&custom, retry)),
        [1, 2, 7].map(Duration::from_secs)
    );
}

#[test]
fn who_is_throttled_starts_from_the_longer_base() {
    let backoff = exponential().with_jitter(Jitter::None);
    let throttled = |backoff: &Backoff, retry| ends(backoff, retry, Duration::ZERO, true)[0];

    assert_eq!(
        [1, 2, 4, 5].map(|retry| throttled(&backoff, retry)),
        [1, 2, 8, 10].map(Duration::from_secs)
    );

    let shorter = backoff.clone().with_throttled_base(BASE / 2);
    assert_eq!(throttled(&shorter, 1), BASE);

    let above_cap = backoff.with_throttled_base(CAP * 2);
    assert_eq!(throttled(&above_cap, 1), CAP);
}

#[test]
fn constant_and_custom_delays_are_taken_as_given_even_if_throttled() {
    for backoff in [Backoff::constant(BASE), Backoff::custom(|_| BASE)] {
        let backoff = backoff.with_jitter(Jitter::None);

        assert_eq!(ends(&backoff, 1, Duration::ZERO, true), [BASE; 2]);
    }
}

// === Jitter ===

#[test]
fn each_jitter_reaches_its_ends_exactly() {
    let with = |jitter| first_ends(&exponential().with_jitter(jitter));

    assert_eq!(with(Jitter::Full), millis([0, 50]));
    assert_eq!(with(Jitter::Equal), millis([25, 50]));
    assert_eq!(with(Jitter::None), millis([50, 50]));
    assert_eq!(with(Jitter::Ratio(0.2)), millis([40, 60]));
    assert_eq!(with(Jitter::Ratio(1.0)), millis([0, 100]));
    assert_eq!(with(Jitter::Decorrelated), millis([50, 150]));
}

#[test]
fn decorrelated_delays_depend_on_the_previous_one() {
    let backoff = exponential().with_jitter(Jitter::Decorrelated);
    let after = |previous| ends(&backoff, 2, Duration::from_millis(previous), false);

    assert_eq!(after(70), millis([50, 210]));
    assert_eq!(after(4_000), millis([50, 10_000]), "the cap comes first");
    assert_eq!(after(1), millis([50, 150]), "never less than from the base");
}

#[test]
fn who_is_throttled_is_spread_by_decorrelated_jitter_too() {
    let backoff = exponential().with_jitter(Jitter::Decorrelated);

    assert_eq!(ends(&backoff, 2, BASE, true), millis([1_000, 3_000]));
}

#[test]
fn a_ratio_draws_evenly_from_what_the_cap_leaves() {
    let backoff = exponential().with_jitter(Jitter::Ratio(0.5));

    assert_eq!(
        ends(&backoff, 99, Duration::ZERO, false),
        millis([5_000, 10_000])
    );
    let middle = backoff.delay(99, Duration::ZERO, false, Sample::new(1 << 63));
    assert_eq!(middle, Duration::from_millis(7_500), "not on the cap");
}

#[test]
fn a_constant_delay_has_no_cap_above_its_ratio() {
    let with = |jitter| first_ends(&Backoff::constant(BASE).with_jitter(jitter));

    assert_eq!(with(Jitter::Ratio(0.2)), millis([40, 60]));
    assert_eq!(with(Jitter::Full), millis([0, 50]));
    assert_eq!(with(Jitter::Equal), millis([25, 50]));
}

#[test]
fn decorrelated_jitter_with_nothing_to_start_from_is_full() {
    let constant = Backoff::constant(BASE).with_jitter(Jitter::Decorrelated);

    assert_eq!(first_ends(&constant), millis([0, 50]));
}

#[test]
fn every_nanosecond_of_a_range_has_the_same_share_of_samples() {
    let two_choices = Backoff::constant(Duration::from_nanos(1));
    let delay = |drawn| two_choices.delay(1, Duration::ZERO, false, Sample::new(drawn));

    assert_eq!(delay((1 << 63) - 1), Duration::ZERO);
    assert_eq!(delay(1 << 63), Duration::from_nanos(1));
}

/// Numbers without a pattern, the same in every run (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct SplitMix(u64);

impl SplitMix {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[test]
fn chance_fills_each_range_evenly() {
    const DRAWS: u32 = 20_000;
    const TENTHS: usize = 10;
    let second = Duration::from_secs(1);
    let backoff = Backoff::exponential(second, second * 4);
    let ranges = [
        (Jitter::Decorrelated, 1.0, 3.0),
        (Jitter::Equal, 0.5, 1.0),
        (Jitter::Full, 0.0, 1.0),
        (Jitter::Ratio(0.25), 0.75, 1.25),
    ];

    for (jitter, lower, upper) in ranges {
        let backoff = backoff.clone().with_jitter(jitter);
        let mut chance = SplitMix(7);
        let mut sum = 0.0;
        let mut tenths = [0_u32; TENTHS];
        for _ in 0..DRAWS {
            let delay = backoff
                .delay(1, Duration::ZERO, false, Sample::new(chance.draw()))
                .as_secs_f64();
            let part = (delay - lower) / (upper - lower);
            assert!((0.0..=1.0).contains(&part), "{jitter:?}: {delay}");
            sum += part;
            tenths[((part * TENTHS as f64) as usize).min(TENTHS - 1)] += 1;
        }

        // the variance of an even spread over 0 to 1 is a twelfth
        let standard_error = (1.0 / 12.0 / f64::from(DRAWS)).sqrt();
        let mean = sum / f64::from(DRAWS);
        assert!(
            (mean - 0.5).abs() < 4.0 * standard_error,
            "{jitter:?}: mean of {mean}"
        );
        // how many of the draws fall into a tenth is binomial
        let expected = f64::from(DRAWS) / TENTHS as f64;
        let deviation = (expected * 0.9).sqrt();
        for count in tenths {
            assert!(
                (f64::from(count) - expected).abs() < 5.0 * deviation,
                "{jitter:?}: {tenths:?}"
            );
        }
    }
}

#[test]
fn decorrelated_delays_grow_by_chance_alone_until_the_cap() {
    let backoff = exponential().with_jitter(Jitter::Decorrelated);
    let mut chance = SplitMix(11);

    let mut sums = [0.0; 12];
    for _ in 0..2_000 {
        let mut previous = Duration::ZERO;
        for sum in &mut sums {
            // the number of the retry plays no part
            previous = backoff.delay(1, previous, false, Sample::new(chance.draw()));
            *sum += previous.as_secs_f64();
        }
    }

    assert!(
        sums.is_sorted_by(|earlier, later| earlier < later),
        "{sums:?}"
    );
    assert!(sums[11] > 20.0 * sums[0]);
}

// === Hints ===

#[test]
fn a_hint_may_exceed_the_cap_and_chance_adds_up_to_the_delay_of_the_retry() {
    let hint = CAP * 3;
    for jitter in [
        Jitter::Decorrelated,
        Jitter::Equal,
        Jitter::Full,
        Jitter::Ratio(0.1),
    ] {
        let backoff = exponential().with_jitter(jitter);
        let after = |drawn| backoff.delay_after(hint, 2, Duration::ZERO, Sample::new(drawn));

        assert_eq!(after(0), hint, "{jitter:?}");
        assert_eq!(after(u64::MAX), hint + BASE * 2, "{jitter:?}");
    }
}

#[test]
fn without_jitter_the_longer_of_hint_and_delay_is_waited_for() {
    let backoff = exponential().with_jitter(Jitter::None);
    let after = |hint| {
        backoff.delay_after(
            Duration::from_millis(hint),
            1,
            Duration::ZERO,
            Sample::new(u64::MAX),
        )
    };

    assert_eq!([0, 49, 50, 51].map(after), millis([50, 50, 50, 51]));
}

#[test]
fn the_longest_hint_is_not_exceeded_nor_shortened() {
    let after = exponential().delay_after(Duration::MAX, 3, Duration::MAX, Sample::new(u64::MAX));

    assert_eq!(after, Duration::MAX);
}

// === What is refused ===

fn refusal(backoff: &Backoff) -> String {
    backoff.check().unwrap_err().to_string()
}

#[test]
fn the_defaults_and_every_jitter_of_an_exponential_backoff_can_work() {
    Backoff::default().check().unwrap();
    for jitter in JITTERS {
        exponential().with_jitter(jitter).check().unwrap();
    }
    Backoff::exponential(BASE, BASE).check().unwrap();
    exponential().with_throttled_base(CAP * 2).check().unwrap();
    Backoff::constant(Duration::ZERO).check().unwrap();
    Backoff::custom(|_| Duration::ZERO).check().unwrap();
}

#[test]
fn a_base_above_the_cap_is_refused() {
    let backoff = Backoff::exponential(CAP, BASE);

    assert_eq!(
        backoff.check(),
        Err(InvalidBackoff::BaseAboveCap {
            base: CAP,
            cap: BASE
        })
    );
    assert_eq!(
        refusal(&backoff),
        "base of 10s above the cap of 50ms: every delay would be the cap"
    );
}

#[test]
fn a_base_of_zero_is_refused_because_it_never_grows() {
    let backoff = Backoff::exponential(Duration::ZERO, CAP);

    assert_eq!(backoff.check(), Err(InvalidBackoff::BaseZero));
    assert!(refusal(&backoff).starts_with("base of zero: "));
}

#[test]
fn a_multiplier_that_is_no_growth_is_refused() {
    for multiplier in [0.999, 0.0, -2.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        let backoff = exponential().with_multiplier(multiplier);

        assert!(
            matches!(backoff.check(), Err(InvalidBackoff::Multiplier { .. })),
            "{multiplier}"
        );
        assert!(refusal(&backoff).starts_with(&format!("multiplier of {multiplier}: ")));
    }
}

#[test]
fn a_ratio_out_of_range_is_refused_for_every_shape() {
    for ratio in [0.0, -0.1, 1.000_1, f64::INFINITY, f64::NAN] {
        for backoff in [
            exponential(),
            Backoff::constant(BASE),
            Backoff::custom(|_| BASE),
        ] {
            let backoff = backoff.with_jitter(Jitter::Ratio(ratio));

            assert!(
                matches!(backoff.check(), Err(InvalidBackoff::Ratio { .. })),
                "{ratio}"
            );
            assert!(refusal(&backoff).starts_with(&format!("jitter ratio of {ratio}: ")));
        }
    }
}

#[test]
fn decorrelated_jitter_is_refused_without_an_exponential_backoff() {
    for backoff in [Backoff::constant(BASE), Backoff::custom(|_| BASE)] {
        let backoff = backoff.with_jitter(Jitter::Decorrelated);

        assert_eq!(backoff.check(), Err(InvalidBackoff::Decorrelated));
        assert!(refusal(&backoff).starts_with("decorrelated jitter without "));
    }
}

#[test]
fn what_cannot_work_counts_as_the_nearest_that_can() {
    for multiplier in [f64::NAN, 0.5, -1.0] {
        let backoff = exponential().with_multiplier(multiplier);
        assert_eq!(nominal(&backoff, 5), BASE, "{multiplier}");
    }
    let endless = exponential().with_multiplier(f64::INFINITY);
    assert_eq!([1, 2].map(|retry| nominal(&endless, retry)), [BASE, CAP]);

    for (ratio, expected) in [(f64::NAN, [50, 50]), (-1.0, [50, 50]), (7.0, [0, 100])] {
        let backoff = exponential().with_jitter(Jitter::Ratio(ratio));
        assert_eq!(first_ends(&backoff), millis(expected), "{ratio}");
    }
}

#[test]
fn the_debug_form_tells_the_numbers() {
    let shown = format!("{:?}", Backoff::default());
    assert!(
        shown.contains("base: 50ms, cap: 10s, multiplier: 2.0"),
        "{shown}"
    );
    assert!(
        shown.contains("jitter: Full, throttled_base: 1s"),
        "{shown}"
    );

    let shown = format!("{:?}", Backoff::custom(|_| BASE));
    assert!(shown.contains("Custom(..)"), "{shown}");
}

// === Any input ===

/// What delays saturate at.
const LONGEST: Duration = Duration::from_nanos(u64::MAX);

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..20_000_u64).prop_map(Duration::from_millis),
        2 => any::<u64>().prop_map(Duration::from_nanos),
        2 => any::<Duration>(),
        1 => select(vec![Duration::ZERO, Duration::from_nanos(1), LONGEST, Duration::MAX]),
    ]
}

fn retries() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..40, any::<u32>(), Just(u32::MAX)]
}

fn jitters() -> impl Strategy<Value = Jitter> {
    let ratio = prop_oneof![0.001..=1.0, floats::ANY];
    prop_oneof![select(&JITTERS[..4]), ratio.prop_map(Jitter::Ratio)]
}

fn samples() -> impl Strategy<Value = Sample> {
    prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)].prop_map(Sample::new)
}

/// Unchecked.
fn exponentials() -> impl Strategy<Value = (Backoff, Duration, Duration)> {
    let multiplier = prop_oneof![Just(2.0), 1.0..4.0, floats::ANY];
    (durations(), durations(), multiplier, durations()).prop_map(
        |(base, cap, multiplier, throttled_base)| {
            let backoff = Backoff::exponential(base, cap)
                .with_multiplier(multiplier)
                .with_throttled_base(throttled_base);
            (backoff, base, cap)
        },
    )
}

proptest! {
    #[test]
    fn no_exponential_delay_exceeds_the_cap(
        (backoff, _, cap) in exponentials(),
        jitter in jitters(),
        retry in retries(),
        previous in durations(),
        throttled: bool,
        sample in samples(),
    ) {
        let delay = backoff.with_jitter(jitter).delay(retry, previous, throttled, sample);

        prop_assert!(delay <= cap);
    }

    #[test]
    fn nominal_delays_start_at_the_base_and_never_shrink(
        (backoff, base, cap) in exponentials(),
        retry in retries(),
    ) {
        prop_assert_eq!(nominal(&backoff, 1), base.min(cap).min(LONGEST));
        prop_assert!(nominal(&backoff, retry) <= nominal(&backoff, retry.saturating_add(1)));
    }

    /// As far as floating-point numbers are: up to 2^53 ns, 104 days.
    #[test]
    fn doubled_delays_are_exact(base in 1..1_u64 << 33, retry in 1_u32..=20) {
        let backoff = Backoff::exponential(Duration::from_nanos(base), Duration::MAX);

        prop_assert_eq!(
            nominal(&backoff, retry),
            Duration::from_nanos(base << (retry - 1))
        );
    }

    #[test]
    fn throttled_delays_are_not_shorter(
        (backoff, _, _) in exponentials(),
        jitter in select(vec![Jitter::Decorrelated, Jitter::Full, Jitter::Equal, Jitter::None]),
        retry in retries(),
        previous in durations(),
        sample in samples(),
    ) {
        let backoff = backoff.with_jitter(jitter);

        let throttled = backoff.delay(retry, previous, true, sample);

        prop_assert!(throttled >= backoff.delay(retry, previous, false, sample));
    }

    #[test]
    fn each_jitter_keeps_to_its_range(
        (backoff, base, cap) in exponentials(),
        jitter in jitters(),
        retry in retries(),
        previous in durations(),
        sample in samples(),
    ) {
        let nominal = nominal(&backoff, retry);
        let delay = backoff.with_jitter(jitter).delay(retry, previous, false, sample);

        match jitter {
            Jitter::Decorrelated => {
                prop_assert!(delay >= base.min(cap).min(LONGEST));
                prop_assert!(delay <= previous.max(base).saturating_mul(3).min(cap));
            }
            Jitter::Equal => prop_assert!((nominal / 2..=nominal).contains(&delay)),
            Jitter::Full => prop_assert!(delay <= nominal),
            Jitter::None => prop_assert_eq!(delay, nominal),
            Jitter::Ratio(ratio) if (0.0..=1.0).contains(&ratio) => {
                // floating-point numbers have 53 bits, and durations more
                let slack = nominal / (1 << 30) / (1 << 20) + Duration::from_nanos(1);
                let spread = Duration::try_from_secs_f64(nominal.as_secs_f64() * ratio).unwrap() + slack;
                prop_assert!(delay >= nominal.saturating_sub(spread));
                prop_assert!(delay <= nominal.saturating_add(spread));
            }
            Jitter::Ratio(_) => {}
            other => prop_assert!(false, "{other:?} is not drawn"),
        }
    }

    #[test]
    fn constant_and_custom_delays_are_at_most_doubled(
        given in durations(),
        custom: bool,
        jitter in jitters(),
        retry in retries(),
        previous in durations(),
        throttled: bool,
        sample in samples(),
    ) {
        let backoff = if custom { Backoff::custom(move |_| given) } else { Backoff::constant(given) };
        let delay = backoff.with_jitter(jitter).delay(retry, previous, throttled, sample);

        let most = if matches!(jitter, Jitter::Ratio(_)) { 2 } else { 1 };
        prop_assert!(delay <= given.saturating_mul(most));
    }

    #[test]
    fn a_wait_after_a_hint_is_no_shorter_than_hint_or_delay_and_longer_by_chance_only(
        (backoff, _, _) in exponentials(),
        jitter in jitters(),
        hint in durations(),
        retry in retries(),
        previous in durations(),
        sample in samples(),
    ) {
        let nominal = nominal(&backoff, retry);
        let backoff = backoff.with_jitter(jitter);
        let delay = backoff.delay(retry, previous, false, sample);

        let after = backoff.delay_after(hint, retry, previous, sample);

        prop_assert!(after >= hint);
        prop_assert!(after >= delay);
        prop_assert!(after <= hint.saturating_add(nominal).max(delay));
    }

    #[test]
    fn later_samples_give_no_shorter_delays(
        (backoff, _, _) in exponentials(),
        jitter in jitters(),
        retry in retries(),
        previous in durations(),
        one: u64,
        other: u64,
    ) {
        let backoff = backoff.with_jitter(jitter);
        let delay = |drawn| backoff.delay(retry, previous, false, Sample::new(drawn));

        prop_assert!(delay(one.min(other)) <= delay(one.max(other)));
    }
}
