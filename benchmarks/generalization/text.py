"""The words of the page."""

TEXT = """\
# Do penalties help on new data?

Written by `python -m benchmarks.generalization` from the runs in
[benchmarks/generalization.csv](../benchmarks/generalization.csv). Every number, verdict and conclusion is computed
from that table.

A penalty holds a measure of complexity down. Does the network do better on data that it has not seen? Weight decay
and six penalties beside training without any: small training sets, with and without wrong labels, all tuned alike.

## What was found

Difference in test accuracy to training without penalty, in percentage points, mean over {final} seeds:

{overview}

{conclusions}

"No difference seen" means that these runs do not show one, not that there is none.

## Results

- **Test accuracy** and **difference** are means over {final} seeds with 95 % confidence intervals (Student's t). A
  seed sets the training set, the wrong labels, the initial weights and the order of the batches, the same for all
  methods, so that differences are those of pairs.
- **p (Holm)** is the p-value of the paired t-test after Holm's correction for the {methods} methods of a table, not for
  the number of tables. The verdict follows it at 5 %: an interval, which is not corrected, may exclude 0 where the
  verdict sees no difference.
- **Training accuracy** is on the labels that were trained on, wrong ones included.
- **Measure** is what the method penalises, without its strength, on the training set after training; in brackets that
  of the networks trained without penalty. For weight decay it is the norm of the parameters. Those of
  LogSpectralProduct and PathNorm are logarithms. Those of JacobianNorm, InputGradientNorm and GradientNorm also fall as
  a network becomes certain of the labels that it has learned, wrong ones too.
- **Time** is the processor time of training divided by that without penalty on the same seed, shortly before; median
  over seeds. These networks are tiny, so that the fixed cost of a penalty weighs more than elsewhere: see
  [benchmarks/results.md](../benchmarks/results.md).

{results}

## How it was done

- **Network**: ReLU, two hidden layers of {width} units. SGD with momentum {momentum}, batches of {batch}, {steps}
  steps, a learning rate that falls from {rate} to 0 along a cosine.
- **Samples**: {sizes}.
- **Wrong labels**: a share of the training set's labels, and the same share of the validation set's, is replaced by
  one of the other classes, since who has wrong labels has them in both. Labels of the test set are not touched.
- **Methods**: weight decay is the optimizer's own, 2 x strength: the gradient of strength times the squared norm of
  all parameters. JacobianNorm uses one random projection. All others are as they come: norms, not their squares, and
  logarithms of PathNorm and the product of spectral norms.
- **Strengths**: the same multiples of a scale for every method: {factors}.
  The scale is the strength at which the penalty's gradient is as long as the loss's, both averaged over a run without
  penalty, from training data alone, with a seed of its own. The range of the multiples was chosen beforehand, on
  validation data of two further seeds.
- **Choice**: the highest validation accuracy, mean over {tuning} seeds (of equal ones the weakest strength), also where
  no penalty at all did better in tuning. No seed serves two purposes, and no test accuracy was looked at to set
  anything.

Validation accuracy in tuning, in percent, the choice in bold; x 0 is no penalty. Wrong labels of the validation
set count as right here:

{tables}

## What this cannot say

- It is about one small network without BatchNorm, one optimizer and easy pictures of digits. Others may come out
  otherwise.
- {final} seeds see large differences only: the smallest p-value of a table counts if the mean difference is above
  {needed:.1f} of its standard errors. "No difference seen" is weak evidence of absence.
- Tuning is noisy itself, more so with wrong labels, and multiples lie a factor of two or more apart. Where a method
  does badly, its strength may be to blame; where the choice lies at an end of the grid, a better one may lie beyond.
- Early stopping, dropout and augmentation were not tried. What helps against wrong labels may do so by keeping the
  network from learning them by heart, which stopping in time does too.
- The scale suits some penalties better than others, as the tables show: where the network breaks down at a multiple
  of about 1, fewer of the strengths are of use.
- The validation set is larger than the training set. Whoever has so many labels might do better to train on them.
- Seeds draw from the same data, and their test sets overlap: the intervals are about new draws from these data.
"""
