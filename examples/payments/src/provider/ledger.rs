use std::collections::HashMap;

use serde::Serialize;

/// Every charge that was made, and how often one was asked for.
#[derive(Debug, Default, Serialize)]
pub(super) struct Ledger {
    charges: Vec<Charge>,
    calls: u64,
    /// Where the first charge with each key stands.
    #[serde(skip)]
    by_key: HashMap<String, usize>,
}

/// One charge as it stands in the ledger and in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Charge {
    id: String,
    key: Option<String>,
    amount: i64,
    #[serde(skip)]
    currency: String,
    at: u64,
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) key: Option<&'a str>,
    pub(super) amount: i64,
    pub(super) currency: &'a str,
}

/// Why there is no charge.
#[derive(Debug)]
pub(super) enum Refused {
    /// The key belongs to a charge of something else.
    KeyReused,
    /// The system gave no randomness for an id.
    NoRandomness(getrandom::Error),
}

impl Ledger {
    pub(super) const fn count_call(&mut self) {
        self.calls += 1;
    }

    /// Makes a charge, or finds the one that was made with this key.
    pub(super) fn charge(
        &mut self,
        order: Order<'_>,
        now: u64,
        dedupe: bool,
    ) -> Result<Charge, Refused> {
        let known = order
            .key
            .filter(|_| dedupe)
            .and_then(|key| self.by_key.get(key));
        if let Some(&known) = known {
            let charge = &self.charges[known];
            return if charge.amount == order.amount && charge.currency == order.currency {
                Ok(charge.clone())
            } else {
                Err(Refused::KeyReused)
            };
        }

        let id = getrandom::u64().map_err(Refused::NoRandomness)?;
        let charge = Charge {
            id: format!("pr_{id:016x}"),
            key: order.key.map(str::to_owned),
            amount: order.amount,
            currency: order.currency.to_owned(),
            at: now,
        };
        if let Some(key) = order.key {
            let place = self.charges.len();
            self.by_key.entry(key.to_owned()).or_insert(place);
        }
        self.charges.push(charge.clone());
        Ok(charge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Order<'static> = Order {
        key: Some("k"),
        amount: 5,
        currency: "usd",
    };

    #[test]
    fn a_known_key_gets_its_charge_again() {
        let mut ledger = Ledger::default();

        let first = ledger.charge(ORDER, 1, true).unwrap();
        let again = ledger.charge(ORDER, 2, true).unwrap();

        assert_eq!(first, again);
        assert_eq!(ledger.charges.len(), 1);
    }

    #[test]
    fn a_known_key_with_another_order_is_refused() {
        let mut ledger = Ledger::default();
        ledger.charge(ORDER, 1, true).unwrap();

        for other in [
            Order { amount: 6, ..ORDER },
            Order {
                currency: "eur",
                ..ORDER
            },
        ] {
            assert!(matches!(
                ledger.charge(other, 2, true),
                Err(Refused::KeyReused)
            ));
        }
        assert_eq!(ledger.charges.len(), 1);
    }

    #[test]
    fn without_a_key_or_deduplication_every_call_charges() {
        let mut ledger = Ledger::default();

        for _ in 0..2 {
            ledger
                .charge(Order { key: None, ..ORDER }, 1, true)
                .unwrap();
            ledger.charge(ORDER, 1, false).unwrap();
        }

        assert_eq!(ledger.charges.len(), 4);
        let found = ledger.charge(ORDER, 2, true).unwrap();
        assert_eq!(found, ledger.charges[1], "the first with the key answers");
    }
}
