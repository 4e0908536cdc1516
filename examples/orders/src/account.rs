//! Who calls: the account behind an API key.

use std::fmt::Write;

use sha2::{Digest, Sha256};
use tonic::{Request, Status, metadata::MetadataMap};

/// The account of an authenticated call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    id: String,
}

impl Account {
    /// The account with this API key: any key has one. Its id is a digest, so that no key reaches the database.
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        let digest = Sha256::digest(format!("orders.account:{key}"));
        let mut id = "acct_".to_owned();
        for byte in &digest[..16] {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        Self { id }
    }

    /// The name of the account in the database.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Puts the [`Account`] of a call into its extensions.
///
/// # Errors
///
/// UNAUTHENTICATED without one API key.
pub fn authenticate(mut request: Request<()>) -> Result<Request<()>, Status> {
    let Some(key) = api_key(request.metadata()) else {
        return Err(Status::unauthenticated(
            "send your API key as `authorization: Bearer <key>`",
        ));
    };
    let account = Account::of_key(key);
    request.extensions_mut().insert(account);
    Ok(request)
}

fn api_key(metadata: &MetadataMap) -> Option<&str> {
    let mut lines = metadata.get_all("authorization").iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let (scheme, key) = line.to_str().ok()?.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticated(lines: &[&'static str]) -> Option<Account> {
        let mut request = Request::new(());
        for line in lines {
            let line = line.parse().unwrap();
            request.metadata_mut().append("authorization", line);
        }
        let request = authenticate(request).ok()?;
        request.extensions().get().cloned()
    }

    #[test]
    fn one_bearer_key_names_an_account_and_anything_else_is_refused() {
        for lines in [["Bearer sk_1"], ["bearer  sk_1 "]] {
            assert_eq!(authenticated(&lines), Some(Account::of_key("sk_1")));
        }
        let refused: [&[&str]; 6] = [
            &[],
            &["Bearer"],
            &["Bearer  "],
            &["sk_1"],
            &["Basic sk_1"],
            &["Bearer sk_1", "Bearer sk_2"],
        ];
        for lines in refused {
            assert_eq!(authenticated(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn each_key_has_an_account_of_its_own_that_does_not_show_it() {
        let account = Account::of_key("sk_1");

        assert_ne!(account, Account::of_key("sk_2"));
        assert!(!account.id().contains("sk_1"));
    }
}
