//! Limits of a pod in Kubernetes' units, and the kubelet's conversion to the kernel's.

/// Limits of a pod. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Sum of CPU requests in thousandths of a core; 0 gives the smallest share.
    pub cpu_request_millis: u64,
    /// CPU limit in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// How many processes and threads the pod may have.
    pub pids: Option<u64>,
}
