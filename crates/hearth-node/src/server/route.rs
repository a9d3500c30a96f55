//! Two gRPC services on one port, without a router for any number of them.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::server::NamedService;

/// Requests for the service `B`, if it is there, go to it, all others to `A`, which refuses what it does not know.
#[derive(Clone, Debug)]
pub(super) struct Both<A, B> {
    pub(super) first: A,
    pub(super) second: Option<B>,
}

impl<A, B, R> Service<http::Request<Body>> for Both<A, B>
where
    A: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    A::Future: Send + 'static,
    B: Service<http::Request<Body>, Response = http::Response<R>, Error = Infallible>
        + NamedService,
    B::Future: Send + 'static,
    R: hyper::body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<StdError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let second = match &mut self.second {
            Some(second) => second.poll_ready(cx),
            None => Poll::Ready(Ok(())),
        };
        match (self.first.poll_ready(cx), second) {
            (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // `/package.Service/Method`
        let service = request.uri().path().split('/').nth(1);
        match &mut self.second {
            Some(second) if service == Some(B::NAME) => {
                let answer = second.call(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
            _ => Box::pin(self.first.call(request)),
        }
    }
}
