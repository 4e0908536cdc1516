use std::error::Error;

use crate::BoxError;

/// How a layer looks into the errors of a service.
///
/// A service's error is either a type that implements [`Error`], or a [`BoxError`], which does not. The language knows no bound that
/// takes both, so the layer is told: [`Typed`] unless said otherwise, [`Boxed`] after `with_boxed_errors()`.
#[diagnostic::on_unimplemented(
    message = "the layer cannot look into errors of type `{E}`",
    label = "this service's errors are of type `{E}`",
    note = "if the error is a boxed `dyn Error`, call `.with_boxed_errors()` on the layer",
    note = "otherwise `{E}` must implement `std::error::Error`"
)]
pub trait ErrorView<E>: Send + Sync + 'static {
    /// The error, to be examined along its chain of sources.
    fn view(error: &E) -> &(dyn Error + 'static);
}

/// Looks into errors that implement [`Error`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Typed;

impl<E: Error + 'static> ErrorView<E> for Typed {
    fn view(error: &E) -> &(dyn Error + 'static) {
        error
    }
}

/// Looks into errors that are boxed already, as the stacks of tower and of axum pass them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Boxed;

impl ErrorView<BoxError> for Boxed {
    fn view(error: &BoxError) -> &(dyn Error + 'static) {
        &**error
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn kind<V: ErrorView<E>, E>(error: &E) -> Option<io::ErrorKind> {
        V::view(error)
            .downcast_ref::<io::Error>()
            .map(io::Error::kind)
    }

    #[test]
    fn a_view_shows_the_error_itself_and_not_its_box() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(kind::<Typed, _>(&error), Some(io::ErrorKind::BrokenPipe));

        let boxed: BoxError = error.into();
        assert_eq!(kind::<Boxed, _>(&boxed), Some(io::ErrorKind::BrokenPipe));
    }
}
