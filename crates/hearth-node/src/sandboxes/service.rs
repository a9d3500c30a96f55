//! The calls, each to the module that does it.

use hearth_proto::sandboxes::v1 as proto;
use hearth_proto::sandboxes::v1::sandboxes_server::Sandboxes;
use tonic::{Request, Response, Status, Streaming};

use super::attach::Attach;
use super::exec::Exec;
use super::port::PortForward;
use super::session::{Responses, serve};
use super::{LOOK, LogStream, SandboxesApi, ThawStream, gate, logs, stats};

#[tonic::async_trait]
impl Sandboxes for SandboxesApi {
    type LogsStream = LogStream;
    type ThawStream = ThawStream;
    type ExecStream = Responses<proto::ExecResponse>;
    type AttachStream = Responses<proto::AttachResponse>;
    type PortForwardStream = Responses<proto::PortForwardResponse>;

    async fn list(
        &self,
        _: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let work = async { Ok(self.shared.list().await) };
        self.shared.call(LOOK, work).await
    }

    async fn inspect(
        &self,
        request: Request<proto::InspectRequest>,
    ) -> Result<Response<proto::InspectResponse>, Status> {
        let request = request.into_inner();
        let work = self.shared.inspect(&request.sandbox);
        self.shared.call(LOOK, work).await
    }

    async fn logs(
        &self,
        request: Request<proto::LogsRequest>,
    ) -> Result<Response<LogStream>, Status> {
        logs::logs(&self.shared, request.into_inner()).await
    }

    async fn freeze(
        &self,
        request: Request<proto::FreezeRequest>,
    ) -> Result<Response<proto::FreezeResponse>, Status> {
        let work = gate::freeze(&self.shared, request.into_inner());
        self.shared.call(LOOK, work).await
    }

    async fn thaw(
        &self,
        request: Request<proto::ThawRequest>,
    ) -> Result<Response<ThawStream>, Status> {
        gate::thaw(&self.shared, &request.into_inner())
    }

    async fn exec_sync(
        &self,
        request: Request<proto::ExecSyncRequest>,
    ) -> Result<Response<proto::ExecSyncResponse>, Status> {
        gate::exec_sync(&self.shared, request.into_inner()).await
    }

    async fn exec(
        &self,
        request: Request<Streaming<proto::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        serve::<Exec>(&self.shared, request.into_inner()).await
    }

    async fn attach(
        &self,
        request: Request<Streaming<proto::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        serve::<Attach>(&self.shared, request.into_inner()).await
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<proto::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        serve::<PortForward>(&self.shared, request.into_inner()).await
    }

    async fn stats(
        &self,
        request: Request<proto::StatsRequest>,
    ) -> Result<Response<proto::StatsResponse>, Status> {
        let work = stats::stats(&self.shared, request.into_inner());
        self.shared.call(LOOK, work).await
    }
}
