use std::fmt;

use super::InvalidBudget;
use crate::sync::{AtomicU64, Ordering};

/// Thousandths of a token: gRPC's ratio has three decimals.
const TOKEN: u64 = 1000;

/// gRPC's throttle, all amounts in thousandths of a token.
///
/// One number is all there is, and nothing is published by it, so that relaxed accesses suffice.
pub(super) struct Throttle {
    max: u64,
    ratio: u64,
    tokens: AtomicU64,
}

impl Throttle {
    pub(super) const MAX_TOKENS: u32 = 1000;

    pub(super) fn new(max_tokens: u32, token_ratio: f64) -> Result<Self, InvalidBudget> {
        if !(1..=Self::MAX_TOKENS).contains(&max_tokens) {
            return Err(InvalidBudget::MaxTokens { max_tokens });
        }
        let ratio = thousandths(token_ratio);
        if !token_ratio.is_finite() || ratio == 0 {
            return Err(InvalidBudget::TokenRatio { token_ratio });
        }
        let max = u64::from(max_tokens) * TOKEN;
        Ok(Self {
            max,
            ratio,
            tokens: AtomicU64::new(max),
        })
    }

    pub(super) fn permits(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) * 2 > self.max
    }

    pub(super) fn succeeded(&self) {
        self.update(|tokens| tokens.saturating_add(self.ratio).min(self.max));
    }

    pub(super) fn failed(&self) {
        self.update(|tokens| tokens.saturating_sub(TOKEN));
    }

    /// Writes only what changes: while all is well, the tokens are full and their cache line stays shared.
    fn update(&self, next: impl Fn(u64) -> u64) {
        let mut tokens = self.tokens.load(Ordering::Relaxed);
        loop {
            let updated = next(tokens);
            if updated == tokens {
                return;
            }
            match self.tokens.compare_exchange_weak(
                tokens,
                updated,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(present) => tokens = present,
            }
        }
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = |thousandths: u64| thousandths as f64 / TOKEN as f64;
        f.debug_struct("Budget")
            .field("mode", &"grpc_throttle")
            .field("max_tokens", &tokens(self.max))
            .field("token_ratio", &tokens(self.ratio))
            .field("tokens", &tokens(self.tokens.load(Ordering::Relaxed)))
            .finish()
    }
}

/// Drops the decimals beyond the third, by way of billionths, or 1.005, which binary fractions meet from below, would be 1.004.
fn thousandths(ratio: f64) -> u64 {
    (ratio * 1e9).round() as u64 / 1_000_000
}
