//! What the stacks of a Sentry's goroutines tell of its tasks.
//!
//! The Sentry has no call that says whether it is paused. But each of its tasks is a goroutine, one that is stopped
//! waits in `Task.doStop`, and a pause that has begun and not ended is a goroutine in `Kernel.Pause`.

/// Frame of every task.
const TASK: &str = "kernel.(*Task).run(";
/// Frame of a task that is stopped.
const STOPPED: &str = "kernel.(*Task).doStop(";
/// Frame of a pause that waits for the tasks to stop.
const PAUSING: &str = "kernel.(*Kernel).Pause(";

/// What a look has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Tasks, which are threads of the pod.
    pub(super) tasks: usize,
    /// Of these, stopped.
    pub(super) stopped: usize,
    /// Whether a pause has begun and not ended. One that was undone meanwhile may go on like that.
    pub(super) pausing: bool,
}

impl View {
    /// Reads a dump of all goroutines.
    pub(super) fn of(stacks: &str) -> Self {
        let mut view = Self::default();
        for goroutine in stacks.split("\n\n") {
            let has = |frame: &str| goroutine.lines().any(|line| line.contains(frame));
            if has(TASK) {
                view.tasks += 1;
                view.stopped += usize::from(has(STOPPED));
            }
            view.pausing |= has(PAUSING);
        }
        view
    }

    /// Whether all tasks are stopped. The root container's pause process is one that nothing inside the pod can stop.
    pub(super) fn is_paused(self) -> bool {
        !self.pausing && self.tasks > 0 && self.stopped == self.tasks
    }

    /// Whether a pause is to be undone: one that has ended, or one that has stopped some tasks and waits for others.
    pub(super) fn is_to_be_resumed(self) -> bool {
        self.is_paused() || (self.pausing && self.stopped > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEPER: &str = "goroutine 91 [select]:
gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).block(0xc000, 0x0, 0x0)
\tgvisor.dev/gvisor/pkg/sentry/kernel/task_block.go:167 +0x105
gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).run(0xc000, 0x1)
\tgvisor.dev/gvisor/pkg/sentry/kernel/task_run.go:90 +0x21c
created by gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).Start in goroutine 1
";
    const STOPPED_TASK: &str = "goroutine 92 [sync.Cond.Wait]:
gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).doStop(0xc000)
\tgvisor.dev/gvisor/pkg/sentry/kernel/task_run.go:130 +0x1a5
gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).run(0xc000, 0x2)
\tgvisor.dev/gvisor/pkg/sentry/kernel/task_run.go:88 +0x1e5
created by gvisor.dev/gvisor/pkg/sentry/kernel.(*Task).Start in goroutine 1
";
    const PAUSE: &str = "goroutine 70 [sync.WaitGroup.Wait]:
gvisor.dev/gvisor/pkg/sentry/kernel.(*Kernel).Pause(0xc000)
\tgvisor.dev/gvisor/pkg/sentry/kernel/kernel.go:1505 +0x5d
gvisor.dev/gvisor/runsc/boot.(*containerManager).Pause(0xc000, 0x0, 0x0)
";
    const OTHER: &str = "goroutine 1 [chan receive]:
gvisor.dev/gvisor/runsc/boot.(*Loader).WaitExit(0xc000)
";

    #[test]
    fn stacks_tell_whether_the_kernel_is_paused() {
        let check = |goroutines: &[&str], paused, to_be_resumed| {
            let view = View::of(&goroutines.join("\n"));
            let found = (view.is_paused(), view.is_to_be_resumed());
            assert_eq!(found, (paused, to_be_resumed), "{view:?}");
        };
        check(&[OTHER, SLEEPER, SLEEPER], false, false);
        check(&[OTHER, STOPPED_TASK, STOPPED_TASK], true, true);
        // One that a signal has stopped is no pause.
        check(&[OTHER, SLEEPER, STOPPED_TASK], false, false);
        // Waits for a task that does not stop; and one of which all was undone but the waiting.
        check(&[PAUSE, SLEEPER, STOPPED_TASK], false, true);
        check(&[PAUSE, SLEEPER, SLEEPER], false, false);
        // Nothing runs, so that nothing is stopped.
        check(&[OTHER], false, false);
        check(&[], false, false);
    }
}
