//! Whose key it is.
//!
//! Two principals never see each other's records. Take the principal that authentication has *resolved*, from the extensions
//! ([`from_extension`]): a header that the client chose can be forged, and a refreshed token is another principal, so that a
//! retry with it would run again.

use std::{borrow::Cow, fmt, marker::PhantomData};

use http::{HeaderValue, header, request::Parts};

/// Says whose key a request carries.
///
/// Implemented for closures `Fn(&Parts) -> Result<Principal, NoPrincipal>`.
pub trait Scope: Send + Sync + 'static {
    /// The principal of the request.
    ///
    /// # Errors
    ///
    /// [`NoPrincipal`] refuses the request with 401 `unauthorized-scope`; nothing is claimed.
    fn principal(&self, request: &Parts) -> Result<Principal, NoPrincipal>;
}

impl<F> Scope for F
where
    F: Fn(&Parts) -> Result<Principal, NoPrincipal> + Send + Sync + 'static,
{
    fn principal(&self, request: &Parts) -> Result<Principal, NoPrincipal> {
        self(request)
    }
}

/// Who sent a request: only its digest leaves the process.
#[derive(Clone, PartialEq, Eq)]
pub struct Principal(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Named(Box<[u8]>),
    Shared,
}

impl Principal {
    /// The principal with this name: an account's id, for example.
    pub fn named(name: impl AsRef<[u8]>) -> Self {
        Self(Kind::Named(name.as_ref().into()))
    }

    /// The one principal of a service that has no others. Equal to no named one, whatever its name.
    #[must_use]
    pub const fn shared() -> Self {
        Self(Kind::Shared)
    }

    /// A tag that tells the kinds apart, and the name.
    pub(crate) fn parts(&self) -> (&'static [u8], &[u8]) {
        match &self.0 {
            Kind::Named(name) => (b"named", name),
            Kind::Shared => (b"shared", b""),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").finish_non_exhaustive()
    }
}

/// A request without a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPrincipal {
    pub(crate) detail: Cow<'static, str>,
    pub(crate) challenge: Option<HeaderValue>,
}

impl NoPrincipal {
    /// Refuses the request; `detail` tells its client what is missing.
    pub fn new(detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            detail: detail.into(),
            challenge: None,
        }
    }

    /// Adds the `WWW-Authenticate` that tells the client how to authenticate (RFC 9110 section 11.6.1).
    #[must_use]
    pub fn with_challenge(self, challenge: HeaderValue) -> Self {
        Self {
            challenge: Some(challenge),
            ..self
        }
    }
}

/// Takes the principal from what an authentication layer outside left in the request's extensions.
///
/// A request without it is refused with 401: either the layer stands inside, or it let an anonymous request through.
///
/// ```
/// use steadfast_idempotency::scope;
///
/// #[derive(Clone)]
/// struct Account { id: String }
///
/// let by_account = scope::from_extension(|account: &Account| &account.id);
/// ```
pub fn from_extension<T, U, F>(name: F) -> FromExtension<T, U, F>
where
    T: Send + Sync + 'static,
    U: AsRef<[u8]> + ?Sized + 'static,
    F: Fn(&T) -> &U + Send + Sync + 'static,
{
    FromExtension {
        name,
        challenge: None,
        _types: PhantomData,
    }
}

/// See [`from_extension`].
pub struct FromExtension<T, U: ?Sized, F> {
    name: F,
    challenge: Option<HeaderValue>,
    _types: PhantomData<fn(&T) -> &U>,
}

impl<T, U: ?Sized, F> FromExtension<T, U, F> {
    /// Adds the `WWW-Authenticate` that a refusal tells its client (RFC 9110 section 15.5.2 asks for one).
    #[must_use]
    pub fn with_challenge(self, challenge: HeaderValue) -> Self {
        Self {
            challenge: Some(challenge),
            ..self
        }
    }
}

impl<T, U: ?Sized, F> fmt::Debug for FromExtension<T, U, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromExtension").finish_non_exhaustive()
    }
}

impl<T, U, F> Scope for FromExtension<T, U, F>
where
    T: Send + Sync + 'static,
    U: AsRef<[u8]> + ?Sized + 'static,
    F: Fn(&T) -> &U + Send + Sync + 'static,
{
    fn principal(&self, request: &Parts) -> Result<Principal, NoPrincipal> {
        match request.extensions.get::<T>() {
            Some(value) => Ok(Principal::named((self.name)(value))),
            None => Err(NoPrincipal {
                challenge: self.challenge.clone(),
                ..NoPrincipal::new("the request was not authenticated")
            }),
        }
    }
}

/// Takes the bearer token of the `Authorization` header as the principal.
///
/// For API keys that outlive retention. **Not for tokens that are refreshed**: the new token is another principal, and a retry
/// with it runs again. It does not check the token; authentication outside must.
#[must_use]
pub const fn bearer_token() -> BearerToken {
    BearerToken(())
}

/// See [`bearer_token`].
#[derive(Clone, Copy, Debug)]
pub struct BearerToken(());

impl Scope for BearerToken {
    fn principal(&self, request: &Parts) -> Result<Principal, NoPrincipal> {
        let refuse =
            |detail| NoPrincipal::new(detail).with_challenge(HeaderValue::from_static("Bearer"));

        let mut lines = request.headers.get_all(header::AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err(refuse(
                "one Authorization header with a bearer token is required",
            ));
        };
        match line.as_bytes().split_at_checked(7) {
            Some((scheme, token))
                if scheme.eq_ignore_ascii_case(b"bearer ") && !token.trim_ascii().is_empty() =>
            {
                Ok(Principal::named(token.trim_ascii()))
            }
            _ => Err(refuse("the Authorization header holds no bearer token")),
        }
    }
}

/// Every request has the same principal.
///
/// For a service with one tenant. Where two clients can choose the same key, one gets the other's answer.
#[must_use]
pub const fn shared() -> Shared {
    Shared(())
}

/// See [`shared`].
#[derive(Clone, Copy, Debug)]
pub struct Shared(());

impl Scope for Shared {
    fn principal(&self, _: &Parts) -> Result<Principal, NoPrincipal> {
        Ok(Principal::shared())
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn with_authorization(lines: &[&str]) -> Parts {
        let mut request = Request::new(()).into_parts().0;
        for line in lines {
            request
                .headers
                .append(header::AUTHORIZATION, line.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        for line in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(
                bearer_token().principal(&with_authorization(&[line])),
                Ok(Principal::named("abc"))
            );
        }
    }

    #[test]
    fn anything_but_one_bearer_token_is_refused() {
        let lines: [&[&str]; 6] = [
            &[],
            &["Bearer"],
            &["Bearer "],
            &["Basic abc"],
            &["Bearerabc"],
            &["Bearer abc", "Bearer def"],
        ];

        for lines in lines {
            assert!(
                bearer_token()
                    .principal(&with_authorization(lines))
                    .is_err(),
                "{lines:?} passed"
            );
        }
    }

    #[test]
    fn a_missing_extension_is_refused() {
        let scope = from_extension(|account: &String| account.as_str());
        let mut request = Request::new(()).into_parts().0;
        assert!(scope.principal(&request).is_err());

        let challenged = from_extension(|account: &String| account.as_str())
            .with_challenge(HeaderValue::from_static("Bearer"));
        let refused = challenged.principal(&request).unwrap_err();
        assert_eq!(refused.challenge, Some(HeaderValue::from_static("Bearer")));

        request.extensions.insert("acme".to_owned());
        assert_eq!(scope.principal(&request), Ok(Principal::named("acme")));
    }

    #[test]
    fn the_shared_principal_equals_no_named_one() {
        for name in ["", "shared"] {
            assert_ne!(Principal::shared().parts(), Principal::named(name).parts());
        }
    }
}
