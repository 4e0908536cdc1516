/// Marks a request, in its extensions, whose operation has the same effect however often it is sent, though its method does not say
/// so.
///
/// Whoever inserts it asserts that: a layer that gives requests a key which their destination honours, or an author who knows what
/// the destination does. A marked request is sent again after failures that leave open whether it was processed, which a POST
/// otherwise never is. Nobody can check the assertion; where it is wrong, the effect may happen twice.
///
/// ```
/// use http::Request;
/// use steadfast_http::IdempotentRequest;
///
/// // The search is a POST only because its query is long.
/// let request = Request::post("/search")
///     .extension(IdempotentRequest)
///     .body("{\"words\": []}")?;
/// # assert!(request.extensions().get::<IdempotentRequest>().is_some());
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdempotentRequest;
