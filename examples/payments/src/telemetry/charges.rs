use metrics::{Unit, counter, describe_counter};

const SURPLUS: &str = "payments_surplus_charges_total";

/// The provider has broken its word: somebody was charged twice, and one of the charges is to be given back.
pub(crate) fn count_surplus_charge() {
    counter!(SURPLUS).increment(1);
}

/// It is there before anything is counted: an alert on its growth would not see a series that begins with 1.
pub(super) fn register() {
    describe_counter!(
        SURPLUS,
        Unit::Count,
        "charges that the provider made beside another one with the same key"
    );
    counter!(SURPLUS).absolute(0);
}
