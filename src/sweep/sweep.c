#include "sweep/sweep.h"
#include "comm/comm.h"
#include "sweep/check.h"
#include "sweep/expand.h"
#include "util/text.h"
#include <stdio.h>
#include <string.h>

static void add_list(gr_text *t, const char *what, const gr_strings *list)
{
    gr_text_add(t, "#%s:", what);
    for (int64_t i = 0; i < list->n; i++) gr_text_add(t, " %s", list->v[i]);
    gr_text_add(t, "\n");
}

static void add_member(gr_text *t, const gr_member *m)
{
    gr_text_add(t, "%s", m->name);
    for (int64_t i = 0; i < m->keys.n; i++) gr_text_add(t, "%c%s", i ? ' ' : '\t', m->keys.v[i]);
    gr_text_add(t, "\n");
}

static gr_status write_here(const gr_config *cfg)
{
    gr_status           st = GR_OK;
    const gr_cfg_sweep *s = &cfg->sweep;
    gr_members          all = {0};
    gr_text             t = {0};

    GR_TRY(gr_stages_check(s));
    GR_TRY(gr_members_expand(&all, s));
    GR_TRY(gr_members_check(&all, cfg));
    gr_text_add(&t, "#out: %s\n#model: %s\n", cfg->run.out, s->model);
    add_list(&t, "shared", &s->shared);
    gr_text_add(&t, "#configs: %s\n", s->configs);
    add_list(&t, "stages", &s->stages);
    for (int64_t i = 0; i < all.n; i++) add_member(&t, &all.member[i]);
    GR_TRY(t.st);
    GR_CHECK(fputs(t.s, stdout) >= 0, GR_ERR_IO, "stdout cannot be written");
out:
    gr_text_close(&t);
    gr_members_close(&all);
    return st;
}

gr_status gr_sweep_write(const gr_run *run)
{
    gr_status st = GR_OK;

    if (gr_comm_rank(run->comm) == 0) st = write_here(run->cfg);
    return gr_agree(run->comm, st);
}
