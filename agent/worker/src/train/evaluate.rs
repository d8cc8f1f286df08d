//! Classifying the test set.

use fleet_common::record::Training;
use fleet_common::worker::Job;
use fleet_dataset::Split;
use tch::{Device, Kind};

use super::Stop;
use super::build::Built;
use super::meter::PhaseMeter;
use super::state::Saver;
use super::steps::{Data, cross_entropy};
use crate::data::{Loader, Transform, evaluation_batches};
use crate::nn::Ctx;
use crate::torch::memory::Place;
use crate::torch::{GradMode, guard};

/// Top-1 accuracy and mean loss over the test images that the settings name.
pub(super) fn evaluate(
    job: &Job,
    built: &Built,
    data: &Data<'_>,
    device: Device,
    saver: &mut Saver<'_>,
    meter: &mut PhaseMeter<'_>,
    training: &mut Training,
) -> Result<(), Stop> {
    let settings = &job.settings;
    let limit = settings.evaluate.limit.map(|n| n as usize);
    let batches = evaluation_batches(data.dataset.len(Split::Test), limit, settings.evaluate.batch as usize);
    let (count, images) = (batches.len(), batches.iter().map(Vec::len).sum::<usize>() as u64);
    let transform = Transform {
        protocol: data.dataset.protocol(),
        size: settings.image_size,
        augment: false,
        recipe: built.recipe,
    };
    let mut loader = Loader::new(
        data.dataset.clone(),
        Split::Test,
        transform,
        data.seed,
        0..count,
        data.decode_threads,
        device,
        move |i| batches[i].clone(),
    );
    let ctx = Ctx::eval().with_precision(built.train.precision);
    Place::phase("evaluate").enter();
    let (mut right, mut loss, mut done) = (0.0, 0.0, 0u64);
    while let Some(batch) = meter.wait(|| loader.next()) {
        let batch = batch?;
        let n = batch.len();
        let (batch_right, batch_loss) = meter.work(n, || {
            guard(|| {
                let _off = GradMode::off();
                let (images, labels) = batch.to_tensors(&built.recipe, device);
                let logits = built.model.forward(&images, &ctx, &built.executor);
                let right = logits.argmax(-1, false).eq_tensor(&labels).sum(Kind::Int64).double_value(&[]);
                (right, cross_entropy(&logits, &labels).double_value(&[]))
            })
        })?;
        right += batch_right;
        loss += batch_loss * n as f64;
        done += n as u64;
        meter.progress(done, images, None);
        if done < images && saver.is_asked() {
            // The evaluation itself starts over: what is kept is that training is done.
            saver.save(built.train.steps, &built.params, None, meter, training)?;
        }
    }
    training.evaluated = done;
    training.top1_percent = Some(100.0 * right / done as f64);
    training.evaluation_loss = Some(loss / done as f64);
    Ok(())
}
