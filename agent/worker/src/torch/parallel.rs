//! Work of our own on libtorch's threads.
//!
//! libtorch computes on a team of OpenMP threads, which wait for more by spinning. Threads of our own beside them would
//! share cores with the spinning ones. So ours are the same ones: OpenMP's entry point (`GOMP_parallel`, part of the ABI
//! that GCC, LLVM and Intel share) is in the library that libtorch has loaded.

use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

type GompParallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

fn gomp_parallel() -> Option<GompParallel> {
    static FOUND: OnceLock<Option<GompParallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: looks a name up among the libraries that are loaded already.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        // SAFETY: this is the function's type in GCC's libgomp and in what is compatible with it, since 2013.
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, GompParallel>(address) })
    })
}

/// Tasks that a team's threads take one after the other.
struct Team<'a> {
    /// A thread's part of the work: it asks for tasks until there are none.
    body: &'a (dyn Fn(&Tasks) + Sync),
    tasks: Tasks,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

struct Tasks {
    next: AtomicUsize,
    count: usize,
}

impl Tasks {
    fn next(&self) -> Option<usize> {
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|task| *task < self.count)
    }
}

impl Team<'_> {
    fn work(&self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.body)(&self.tasks)));
        if let Err(panic) = outcome {
            self.tasks.next.store(self.tasks.count, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }
}

extern "C" fn work(team: *mut c_void) {
    // SAFETY: `for_each` passes a team that outlives the call, and only shared references to it are made.
    unsafe { &*team.cast::<Team>() }.work();
}

/// Calls `body` with every number below `tasks`, each once, on as many threads as libtorch may use. Which thread gets
/// which task is open, so a task must depend on its number alone. A thread makes itself a place to work in with `scratch`,
/// once; what is in there between two of its tasks must not matter.
///
/// # Panics
/// Where `body` does.
pub fn for_each<S>(tasks: usize, scratch: impl Fn() -> S + Sync, body: impl Fn(&mut S, usize) + Sync) {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).min(tasks);
    let body = |tasks: &Tasks| {
        let mut place = None;
        while let Some(task) = tasks.next() {
            body(place.get_or_insert_with(&scratch), task);
        }
    };
    let tasks = Tasks { next: AtomicUsize::new(0), count: tasks };
    let team = Team { body: &body, tasks, panic: Mutex::new(None) };
    match gomp_parallel() {
        _ if threads <= 1 => team.work(),
        Some(gomp_parallel) => {
            // SAFETY: the team outlives the call, which returns when all its threads have.
            unsafe { gomp_parallel(work, (&raw const team).cast_mut().cast(), threads as c_uint, 0) }
        }
        None => std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| team.work());
            }
            team.work();
        }),
    }
    if let Some(panic) = team.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_and_on_libtorchs_threads() {
        assert!(gomp_parallel().is_some(), "libtorch has loaded an OpenMP");
        let done: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
        let places = AtomicUsize::new(0);
        let place = || places.fetch_add(1, Ordering::Relaxed);
        for_each(done.len(), place, |_, task| {
            done[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        assert!(places.into_inner() <= tch::get_num_threads() as usize, "one place per thread");
        for_each(0, || (), |(), _| unreachable!("there is no task"));
    }

    #[test]
    fn a_panic_arrives_where_the_work_was_asked_for() {
        let outcome = catch_unwind(|| for_each(64, || (), |(), task| assert_ne!(task, 13, "unlucky")));
        assert!(outcome.is_err());
        let count = AtomicUsize::new(0);
        for_each(
            5,
            || (),
            |(), _| {
                count.fetch_add(1, Ordering::Relaxed);
            },
        );
        assert_eq!(count.into_inner(), 5, "the team is as before");
    }
}
