//! Limits: durations from a nanosecond to the longest there is, answers from none to many megabytes.

use std::time::Duration;

use steadfast_core::idempotency::{Claimant, KeyDigest, OwnerId, Terms};
use steadfast_store::{Resolution, Standing, Store, StoredResponse};

use super::{
    Bench,
    actors::{
        BOTH_PROMISES, LONG, REQUEST, answer, applied, at_least_once, at_most_once, claimed,
        completed, expire, fresh_key, fresh_owner, incident, lapse, look_up, lost_claim, ok,
        running, show, terms,
    },
};

const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// From "nearly for ever" to a century, none of which a store may overflow on.
const HUGE: [Duration; 4] = [
    Duration::MAX,
    Duration::from_secs(u64::MAX),
    Duration::from_secs(i64::MAX as u64),
    A_CENTURY,
];

/// A lease and a retention may be as long as a duration can be: they saturate.
pub async fn huge_durations_saturate<B: Bench>(bench: &B) {
    let store = bench.store();
    for huge in HUGE {
        for promise in BOTH_PROMISES {
            let key = fresh_key();
            let huge_terms = Terms {
                lease: huge,
                retention: huge,
                ..terms(promise)
            };
            let claim = claimed(store.begin(&key, &huge_terms).await);

            for _ in 0..2 {
                let lease_left = running(store.begin(&key, &terms(promise)).await);
                assert!(
                    lease_left > A_CENTURY / 2,
                    "{lease_left:?} are left of {huge:?}"
                );
                applied(store.renew(&claim, huge).await);
            }
            assert_eq!(show(&store, &key).await.lapsed_for, Duration::ZERO);
            assert_eq!(ok(store.reap(10, huge).await).deleted, 0);
            applied(store.complete(&claim, &answer("done")).await);
            assert_eq!(
                completed(store.begin(&key, &terms(promise)).await),
                answer("done")
            );
            assert_eq!(ok(store.reap(10, huge).await).deleted, 0);
        }
    }
}

/// A resolution may keep its answer as long as a duration can be, and so may a reaper the indeterminate.
pub async fn huge_durations_of_resolutions_and_reapers_saturate<B: Bench>(bench: &B) {
    let store = bench.store();
    for huge in HUGE {
        let key = fresh_key();
        let brief = Terms {
            retention: Duration::ZERO,
            ..at_most_once()
        };
        lost_claim(bench, &key, brief).await;
        let turned = ok(store.reap(10, huge).await);
        assert_eq!((turned.deleted, turned.lapsed), (0, 1));
        assert_eq!(ok(store.reap(10, huge).await), Default::default());

        let resolution = Resolution::Complete {
            resolver: fresh_owner(),
            response: answer("resolved"),
            retention: huge,
        };
        applied(
            store
                .resolve(&incident(&store, &key).await, &resolution)
                .await,
        );

        assert_eq!(
            completed(store.begin(&key, &at_most_once()).await),
            answer("resolved")
        );
        assert_eq!(ok(store.reap(10, huge).await).deleted, 0);
    }
}

/// Durations finer than a microsecond are taken, and are over soon.
pub async fn durations_finer_than_a_microsecond_are_taken<B: Bench>(bench: &B) {
    let store = bench.store();
    for fine in [1, 999, 1_001, 1_999_999].map(Duration::from_nanos) {
        let key = fresh_key();
        let fine_lease = Terms {
            lease: fine,
            ..at_least_once()
        };
        let claim = claimed(store.begin(&key, &fine_lease).await);
        lapse(bench, &key).await;
        applied(store.renew(&claim, fine).await);
        lapse(bench, &key).await;

        let fine_retention = Terms {
            lease: fine,
            retention: fine,
            ..at_least_once()
        };
        let _second = claimed(store.begin(&key, &fine_retention).await);
        expire(bench, &key).await;
        let _ = ok(store.reap(10, fine).await);

        let odd = Terms {
            lease: LONG + fine,
            ..at_least_once()
        };
        let _third = claimed(store.begin(&fresh_key(), &odd).await);
    }
}

/// An answer of no bytes is an answer.
pub async fn an_empty_answer_is_an_answer<B: Bench>(bench: &B) {
    let empty = StoredResponse::new(1, Vec::new());
    comes_back(bench, &empty).await;
}

/// Every byte value comes back as it went in, first and last bytes included.
pub async fn every_byte_value_survives<B: Bench>(bench: &B) {
    let forth: Vec<u8> = (0..=u8::MAX).collect();
    let back: Vec<u8> = forth.iter().rev().copied().collect();
    comes_back(bench, &StoredResponse::new(1, forth)).await;
    comes_back(bench, &StoredResponse::new(1, back)).await;
    comes_back(bench, &StoredResponse::new(1, vec![0; 3])).await;
}

/// Every version of the format comes back.
pub async fn every_format_version_survives<B: Bench>(bench: &B) {
    for format in [0, 1, 0x7fff, 0x8000, u16::MAX] {
        comes_back(bench, &StoredResponse::new(format, &b"answer"[..])).await;
    }
}

/// An answer of several megabytes comes back whole.
pub async fn an_answer_of_megabytes_survives<B: Bench>(bench: &B) {
    for megabytes in [1, 4] {
        let bytes: Vec<u8> = (0..megabytes << 20_u32)
            .map(|place: u32| place.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        comes_back(bench, &StoredResponse::new(1, bytes)).await;
    }
}

async fn comes_back<B: Bench>(bench: &B, response: &StoredResponse) {
    let key = fresh_key();
    let claim = claimed(bench.store().begin(&key, &at_least_once()).await);
    applied(bench.store().complete(&claim, response).await);

    let replayed = completed(bench.store().begin(&key, &at_least_once()).await);
    assert!(replayed == *response, "{replayed:?} is not {response:?}");
    let looked_up = look_up(&bench.store(), &key).await;
    let expected = Standing::Completed {
        fingerprint: REQUEST,
        response: response.clone(),
    };
    assert!(looked_up == expected, "{looked_up:?} is not {expected:?}");

    let resolved = fresh_key();
    lost_claim(bench, &resolved, at_most_once()).await;
    let resolution = Resolution::Complete {
        resolver: fresh_owner(),
        response: response.clone(),
        retention: LONG,
    };
    let store = bench.store();
    applied(
        store
            .resolve(&incident(&store, &resolved).await, &resolution)
            .await,
    );
    let replayed = completed(store.begin(&resolved, &at_most_once()).await);
    assert!(replayed == *response, "{replayed:?} is not {response:?}");
}

/// Keys and owners of any bytes are kept as they are.
pub async fn extreme_keys_and_owners_are_kept<B: Bench>(bench: &B) {
    let store = bench.store();
    for byte in [0x00, 0x27, 0x5c, 0x7f, 0x80, 0xff] {
        let key = KeyDigest::from_bytes([byte; 32]);
        let owner = OwnerId::from_bytes([byte; 16]);
        let own = Terms {
            owner,
            ..at_least_once()
        };
        let _claim = claimed(store.begin(&key, &own).await);

        let record = show(&store, &key).await;

        assert_eq!(record.key, key);
        assert_eq!(record.owner, owner);
        running(store.begin(&key, &at_least_once()).await);
        applied(store.release(&Claimant { key, owner }).await);
    }
}

/// The store says what it can keep, and that it is fenced: the other clauses hold it to that.
pub async fn the_store_says_that_it_is_fenced<B: Bench>(bench: &B) {
    let store = bench.store();

    assert!(store.capabilities().fenced);
    assert_eq!(store.capabilities(), bench.store().capabilities());
    assert_eq!(store.id(), store.id());
}
