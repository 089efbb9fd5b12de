/**
 * report -- what a pipeline did, or a sweep, in a table and in plots.
 *
 *   reads    report.stages    metrics.jsonl of training runs   (align, distill, extend)
 *            report.models    results.json of evaluations      (evaluate)
 *            report.seconds   seconds of every stage           (scripts/demo.sh)
 *            report.sweep     instead: members.tsv, and all of these of every member    (slurm/sweep.sh)
 *   writes   run.out/         report.md, report.json, loss_STAGE.svg, STAGE_layers.svg; a table on stdout
 *   resumes  not at all: it takes a second, and looks at what there is now
 *   exits    0 done, 2 bad configuration or input, or gnuplot is missing; else failed
 *
 *   mpirun -n 1 build/bin/graft-report configs/demo/report.yaml
 */
#include "product/product.h"
#include "report/report.h"
#include <stddef.h>

int main(int argc, char **argv)
{
    gr_run    *run = NULL;
    gr_product product = {0};
    gr_status  st = GR_OK;

    GR_TRY(gr_run_open(&run, argc, argv, "report"));
    if (!run) goto out; /* --help and the like */
    GR_TRY(gr_product_lock(&product, run));
    GR_TRY(gr_report_write(run));
out:
    gr_product_close(&product);
    return gr_run_close(&run, st);
}
