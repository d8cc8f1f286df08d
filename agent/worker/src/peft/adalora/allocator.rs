//! Which ranks stay: importance by sensitivity and uncertainty, under a budget that falls along a cubic
//! (arXiv 2303.10512, sections 3.2 and 3.3; HF PEFT's `RankAllocator`).

use std::collections::BTreeMap;

use fleet_common::plan::AdaLoraSettings;
use tch::{Kind, Tensor};

use crate::nn::{Param, Params};
use crate::peft::Schedule;
use crate::torch::GradMode;

/// Moving averages over one parameter's elements.
struct Importance {
    name: String,
    /// Place among the trainable parameters.
    place: usize,
    /// Average of |w·∂L/∂w|.
    sensitivity: Tensor,
    /// Average of how far the present value is from that average.
    uncertainty: Tensor,
}

/// The ranks of one layer that stay, as ones and zeros, (rank, 1).
struct Pattern {
    layer: String,
    stays: Tensor,
}

/// Takes ranks away while training goes on.
pub struct Allocator {
    settings: AdaLoraSettings,
    steps: u32,
    importance: Vec<Importance>,
    patterns: Vec<Pattern>,
}

impl Allocator {
    /// For a training of `steps` steps of the adapters among `params`.
    pub fn new(settings: &AdaLoraSettings, params: &Params, steps: u32) -> Self {
        let _off = GradMode::off();
        let parts = params.trainable().enumerate().filter(|(_, p)| layer_of(p).is_some());
        let importance = parts.map(|(place, p)| Importance {
            name: p.name.clone(),
            place,
            sensitivity: p.tensor.zeros_like(),
            uncertainty: p.tensor.zeros_like(),
        });
        let values = params.trainable().filter_map(|p| Some((p.name.strip_suffix(".lora_E")?, p)));
        let patterns =
            values.map(|(layer, p)| Pattern { layer: layer.to_owned(), stays: p.tensor.detach().ones_like() });
        Self { settings: settings.clone(), steps, importance: importance.collect(), patterns: patterns.collect() }
    }

    /// Ranks over all layers at the start.
    fn begun_with(&self) -> i64 {
        i64::from(self.settings.init_rank) * self.patterns.len() as i64
    }

    fn observe(&mut self, params: &Params, grads: &[Option<Tensor>]) {
        let trainable: Vec<&Param> = params.trainable().collect();
        let (b1, b2) = (self.settings.beta1, self.settings.beta2);
        for part in &mut self.importance {
            let Some(grad) = &grads[part.place] else { continue };
            let now = (&trainable[part.place].tensor * grad).abs();
            let _ = part.sensitivity.g_mul_scalar_(b1).g_add_(&(&now * (1.0 - b1)));
            let surprise = (now - &part.sensitivity).abs();
            let _ = part.uncertainty.g_mul_scalar_(b2).g_add_(&(surprise * (1.0 - b2)));
        }
    }

    /// A rank's score: that of its singular value, and the means over its row of A and its column of B; (rank).
    fn scores(&self, layer: &str) -> Tensor {
        let element = |part: &str| {
            let name = format!("{layer}.{part}");
            let found = self.importance.iter().find(|i| i.name == name);
            found.map(|i| &i.sensitivity * &i.uncertainty)
        };
        let mean = |t: Tensor, dim: i64| t.mean_dim([dim].as_slice(), false, Kind::Float);
        let parts = [
            element("lora_A").map(|t| mean(t, 1)),
            element("lora_B").map(|t| mean(t, 0)),
            element("lora_E").map(|t| t.view([-1])),
        ];
        let [Some(a), Some(b), Some(e)] = parts else { unreachable!("an adapter has all three parts") };
        e + (a + b)
    }

    /// Leaves the `budget` ranks with the highest scores.
    fn allot(&mut self, budget: i64, params: &Params) {
        let scores: Vec<Tensor> = self.patterns.iter().map(|p| self.scores(&p.layer)).collect();
        let out = self.begun_with() - budget;
        if out <= 0 {
            // Nothing is to be taken away yet; the reference has no answer here.
            return;
        }
        let (threshold, _) = Tensor::cat(&scores, 0).kthvalue(out, 0, false);
        for (pattern, scores) in self.patterns.iter_mut().zip(scores) {
            let stays = scores.gt_tensor(&threshold).to_kind(pattern.stays.kind()).view([-1, 1]);
            pattern.stays.copy_(&stays);
        }
        self.mask(params);
    }

    /// Sets the singular values of taken ranks to zero. Between masks they may grow again, as in the reference.
    fn mask(&self, params: &Params) {
        for pattern in &self.patterns {
            if let Some(values) = params.get(&format!("{}.lora_E", pattern.layer)) {
                let taken = pattern.stays.eq(0.0);
                let _ = values.tensor.shallow_clone().masked_fill_(&taken, 0.0);
            }
        }
    }
}

/// The layer that a part of an adapter belongs to.
fn layer_of(param: &Param) -> Option<&str> {
    ["lora_A", "lora_B", "lora_E"].iter().find_map(|part| param.name.strip_suffix(&format!(".{part}")))
}

impl Schedule for Allocator {
    fn after_step(&mut self, step: u32, params: &Params, grads: &[Option<Tensor>]) {
        let _off = GradMode::off();
        let last = self.steps.saturating_sub(self.settings.tfinal);
        if step < last {
            self.observe(params, grads);
        }
        let (budget, due) = self.budget(step);
        if step > last {
            self.mask(params);
        } else if due || step == last {
            self.allot(budget, params);
        }
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let parts = self.importance.iter().flat_map(|i| {
            [
                (format!("sensitivity/{}", i.name), i.sensitivity.shallow_clone()),
                (format!("uncertainty/{}", i.name), i.uncertainty.shallow_clone()),
            ]
        });
        let patterns = self.patterns.iter().map(|p| (format!("stays/{}", p.layer), p.stays.shallow_clone()));
        parts.chain(patterns).collect()
    }

    fn pattern(&self) -> BTreeMap<String, Vec<bool>> {
        let stays = |p: &Pattern| Vec::<f64>::try_from(p.stays.view([-1]).to_kind(Kind::Double)).unwrap_or_default();
        self.patterns.iter().map(|p| (p.layer.clone(), stays(p).into_iter().map(|s| s != 0.0).collect())).collect()
    }

    /// All until `tinit`; then target + (all − target)·(1 − t)³, where t goes from 0 to 1 until `tfinal` steps before
    /// the end, cut down to a whole number and looked at every `delta_t` steps.
    fn budget(&self, step: u32) -> (i64, bool) {
        let s = &self.settings;
        let (all, target) = (self.begun_with(), i64::from(s.target_rank) * self.patterns.len() as i64);
        let last = i64::from(self.steps) - i64::from(s.tfinal);
        let (step, tinit) = (i64::from(step), i64::from(s.tinit));
        if step <= tinit {
            (all, false)
        } else if step > last {
            (target, true)
        } else {
            let left = 1.0 - (step - tinit) as f64 / (last - tinit) as f64;
            let budget = ((all - target) as f64 * left.powi(3) + target as f64) as i64;
            (budget, step % i64::from(s.delta_t) == 0)
        }
    }
}
