//! A tensor that a [`super::Function`] keeps for its backward.
//!
//! What is kept is a handle, so whoever writes into the tensor before backward gets wrong gradients without a word.
//! libtorch's own nodes notice by the tensor's version; ours do by this.

use anyhow::ensure;
use tch::Tensor;

use super::version;

/// A handle on a tensor that must not be written to until backward has read it.
#[derive(Debug)]
pub struct Saved {
    what: &'static str,
    tensor: Tensor,
    version: i64,
}

impl Saved {
    /// Keeps `tensor` as it is now, off the graph; `what` it is goes into messages ("a norm's input"). Nothing is copied.
    pub fn new(what: &'static str, tensor: &Tensor) -> Self {
        // A detached handle has the version of what it was made from, and goes on sharing it.
        Self { what, tensor: tensor.detach(), version: version(tensor) }
    }

    /// The tensor, with the values that it was saved with.
    ///
    /// # Errors
    /// It has been written to since.
    pub fn get(&self) -> anyhow::Result<&Tensor> {
        let now = version(&self.tensor);
        ensure!(
            now == self.version,
            "{} {:?} was changed in place between forward and backward: expected version {}, found {now}",
            self.what,
            self.tensor.size(),
            self.version
        );
        Ok(&self.tensor)
    }

    /// Its shape, which writing does not change.
    pub fn size(&self) -> Vec<i64> {
        self.tensor.size()
    }
}

#[cfg(test)]
mod tests {
    use tch::kind::FLOAT_CPU;

    use super::*;
    use crate::torch::GradMode;

    #[test]
    fn what_is_saved_is_the_tensor_itself_off_the_graph() {
        let leaf = Tensor::ones([2, 3], FLOAT_CPU).set_requires_grad(true);
        let saved = Saved::new("a leaf", &leaf);
        let got = saved.get().expect("nobody wrote");
        assert_eq!((got.data_ptr(), saved.size()), (leaf.data_ptr(), vec![2, 3]), "not a copy");
        assert!(!got.requires_grad());
    }

    #[test]
    fn writing_is_noticed_through_any_handle() {
        let writes: [fn(&Tensor); 3] = [
            |t| drop(t.shallow_clone().g_add_scalar_(1.0)),
            |t| drop(t.detach().g_add_scalar_(1.0)),
            |t| drop(t.narrow(0, 0, 1).g_add_scalar_(1.0)),
        ];
        for (i, write) in writes.into_iter().enumerate() {
            let _off = GradMode::off();
            let tensor = Tensor::ones([2, 3], FLOAT_CPU);
            let _ = tensor.shallow_clone().g_add_scalar_(1.0); // earlier writes are its own affair
            let saved = Saved::new("a tensor", &tensor);
            let _ = &tensor + 1.0;
            assert!(saved.get().is_ok(), "{i}: reading is no change");
            write(&tensor);
            let error = saved.get().expect_err("written to").to_string();
            assert!(
                error.contains("a tensor [2, 3] was changed in place between forward and backward"),
                "{i}: {error}"
            );
        }
    }
}
