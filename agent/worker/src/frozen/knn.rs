//! Classification by the nearest neighbours among frozen features, as DINO's authors do it (Caron et al., arXiv
//! 2104.14294, and its public code): cosine similarity, and votes that fall off with the distance.

use tch::{Kind, Tensor};

use crate::models::normalised;

/// What a neighbour's vote weighs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Votes {
    /// The same as any other's.
    Equal,
    /// exp(similarity / temperature).
    Softmax {
        /// DINO's is 0.07.
        temperature: f64,
    },
}

/// The `k` nearest of all features that were offered, for some queries. Exact: features come in pieces of any size, and
/// only the nearest are kept.
#[derive(Debug)]
pub struct Nearest {
    /// (queries, width), normalised.
    queries: Tensor,
    k: i64,
    /// Similarities and labels (queries, at most k), the nearest first.
    best: Option<(Tensor, Tensor)>,
}

impl Nearest {
    /// Of nothing yet, for `queries` (queries, width).
    pub fn new(queries: &Tensor, k: u32) -> Self {
        Self { queries: normalised(&queries.to_kind(Kind::Float)), k: i64::from(k), best: None }
    }

    /// Offers features (n, width) with labels (n) of whole numbers.
    pub fn offer(&mut self, features: &Tensor, labels: &Tensor) {
        let features = normalised(&features.to_kind(Kind::Float));
        let similar = self.queries.matmul(&features.transpose(0, 1)); // (queries, n)
        let labels = labels.unsqueeze(0).expand_as(&similar);
        let (similar, labels) = match self.best.take() {
            Some((before, theirs)) => (Tensor::cat(&[before, similar], 1), Tensor::cat(&[theirs, labels], 1)),
            None => (similar, labels),
        };
        let (best, at) = similar.topk(self.k.min(similar.size()[1]), 1, true, true);
        self.best = Some((best, labels.gather(1, &at, false)));
    }

    /// The votes for each class (queries, classes). The class of a query is the one with the most; a tie is the first's.
    /// None where nothing was offered.
    pub fn votes(&self, classes: i64, votes: Votes) -> Option<Tensor> {
        let (similar, labels) = self.best.as_ref()?;
        let weights = match votes {
            Votes::Equal => similar.ones_like(),
            // The nearest weighs 1: what all are multiplied by changes no order, and nothing overflows.
            Votes::Softmax { temperature } => ((similar - similar.narrow(1, 0, 1)) / temperature).exp(),
        };
        let none = Tensor::zeros([similar.size()[0], classes], (Kind::Float, similar.device()));
        Some(none.scatter_add(1, labels, &weights))
    }
}
