//! Who calls: the account behind an API key.

use std::fmt::Write;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// The account of an authenticated request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    id: String,
}

impl Account {
    /// The account with this API key: any key has one. Its id is a digest, so that no key reaches the database.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        let digest = Sha256::digest([b"payments.account:", key].concat());
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

/// Puts the [`Account`] of a request into its extensions, or answers 401.
///
/// # Cancel safety
///
/// It holds nothing of its own; dropping it drops the rest of the stack.
pub async fn authenticate(mut request: Request, next: Next) -> Response {
    match api_key(request.headers()) {
        Some(key) => {
            request.extensions_mut().insert(Account::of_key(&key));
            next.run(request).await
        }
        None => unauthorized(),
    }
}

/// The key of `Bearer <key>`, or of Basic with the key as the user name.
fn api_key(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let line = line.as_bytes();
    let (scheme, credentials) = line.split_at(line.iter().position(|&byte| byte == b' ')?);
    let credentials = credentials.trim_ascii();

    let key = if scheme.eq_ignore_ascii_case(b"bearer") {
        credentials.to_vec()
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let mut pair = BASE64_STANDARD.decode(credentials).ok()?;
        pair.truncate(pair.iter().position(|&byte| byte == b':')?);
        pair
    } else {
        return None;
    };
    (!key.is_empty()).then_some(key)
}

fn unauthorized() -> Response {
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send your API key as `Authorization: Bearer <key>`, or as the user name of Basic",
    );
    let mut response = problem.into_response();
    for challenge in ["Bearer realm=\"payments\"", "Basic realm=\"payments\""] {
        response.headers_mut().append(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        );
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(lines: &[&str]) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::AUTHORIZATION, line.parse().unwrap());
        }
        api_key(&headers)
    }

    #[test]
    fn bearer_and_basic_name_the_same_key() {
        let user_alone = BASE64_STANDARD.encode("sk_1:");
        let with_password = BASE64_STANDARD.encode("sk_1:a:b");

        for line in [
            "Bearer sk_1",
            "bearer  sk_1",
            &format!("Basic {user_alone}"),
            &format!("BASIC {with_password}"),
        ] {
            assert_eq!(key(&[line]).as_deref(), Some(&b"sk_1"[..]), "{line}");
        }
    }

    #[test]
    fn anything_but_one_key_is_refused() {
        let nameless = format!("Basic {}", BASE64_STANDARD.encode(":password"));
        let no_colon = format!("Basic {}", BASE64_STANDARD.encode("sk_1"));
        let lines: [&[&str]; 9] = [
            &[],
            &["Bearer"],
            &["Bearer  "],
            &["sk_1"],
            &["Digest sk_1"],
            &["Basic !"],
            &[&nameless],
            &[&no_colon],
            &["Bearer sk_1", "Bearer sk_2"],
        ];

        for lines in lines {
            assert_eq!(key(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn each_key_has_an_account_of_its_own_that_does_not_show_it() {
        let account = Account::of_key(b"sk_1");

        assert_ne!(account, Account::of_key(b"sk_2"));
        assert_eq!(account.id().len(), "acct_".len() + 32);
        assert!(!account.id().contains("sk_1"));
    }
}
