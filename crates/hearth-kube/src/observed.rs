//! Telling somebody how requests ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request, Response, StatusCode};
use tower::Service;

/// Is told of each request: its method, and the status of the response when there was one. It must not block.
pub type OnResponse = Arc<dyn Fn(&Method, Option<StatusCode>) + Send + Sync>;

/// A service whose responses somebody is told of.
#[derive(Clone)]
pub(crate) struct Observed<S> {
    inner: S,
    on_response: OnResponse,
}

impl<S> Observed<S> {
    pub(crate) fn new(inner: S, on_response: OnResponse) -> Self {
        Self { inner, on_response }
    }
}

impl<S, B, R> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.method().clone();
        let on_response = Arc::clone(&self.on_response);
        let response = self.inner.call(request);
        Box::pin(async move {
            let result = response.await;
            on_response(&method, result.as_ref().ok().map(Response::status));
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tower::{ServiceExt as _, service_fn};

    use super::*;

    #[tokio::test]
    async fn responses_and_failures_are_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let on_response: OnResponse = {
            let told = Arc::clone(&told);
            Arc::new(move |method, status| told.lock().unwrap().push((method.clone(), status)))
        };
        let server = service_fn(|request: Request<()>| {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONFLICT;
            std::future::ready(match request.uri().path() {
                "/gone" => Err("nobody is there"),
                _ => Ok(response),
            })
        });
        let service = Observed::new(server, on_response);
        for (method, path) in [(Method::PATCH, "/"), (Method::GET, "/gone")] {
            let request = Request::builder().method(method).uri(path);
            let _ = service.clone().oneshot(request.body(()).unwrap()).await;
        }
        let expected = [
            (Method::PATCH, Some(StatusCode::CONFLICT)),
            (Method::GET, None),
        ];
        assert_eq!(*told.lock().unwrap(), expected);
    }
}
