//! What the node API says for the status of sandboxes.

use hearth_core::attachments::Attachment;
use hearth_core::ids::SandboxUid;
use hearth_core::status::ServiceFact;
use hearth_proto::node::v1 as proto;
use hearth_proto::node::v1::session_request::Request;

use super::SessionPods;

/// Takes in what is to be said of sandboxes; gives any other request back.
pub(super) fn attached<P: SessionPods>(
    pods: &P,
    request: proto::SessionRequest,
) -> Option<proto::SessionRequest> {
    match request.request {
        Some(Request::Attachments(list)) => {
            pods.keep_attachments(list.sandbox_uids.into_iter().map(SandboxUid).collect());
            None
        }
        Some(Request::Attachment(told)) => {
            let uid = SandboxUid(told.sandbox_uid);
            pods.set_attachment(uid, told.known.map(attachment));
            None
        }
        _ => Some(request),
    }
}

fn attachment(known: proto::attachment::Known) -> Attachment {
    use proto::service_state::State;
    let service = match known.service.and_then(|service| service.state) {
        // A state of a later version of the API says nothing that this node could.
        None => ServiceFact::NotAsked,
        Some(State::Absent(_)) => ServiceFact::Absent,
        Some(State::Missing(_)) => ServiceFact::Missing,
        Some(State::There(proto::ServiceName { name, fqdn })) => ServiceFact::There { name, fqdn },
        Some(State::Impossible(why)) => ServiceFact::Impossible(why),
    };
    Attachment {
        service,
        fault: Some(known.fault).filter(|fault| !fault.is_empty()),
    }
}
