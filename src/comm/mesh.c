#include "comm/mesh.h"
#include "util/mem.h"
#include <string.h>

/* The ranks that have my place on every axis for which `mine` is true, in rank order. NULL when that is me alone. */
static gr_status group(const gr_mesh *m, const gr_comm *world, const bool mine[GR_AXES], gr_comm **out)
{
    int colour = 0, size = 1;

    for (int a = 0; a < GR_AXES; a++) {
        if (mine[a])
            colour = colour * m->n[a] + m->at[a];
        else
            size *= m->n[a];
    }
    return size == 1 ? GR_OK : gr_comm_split(world, colour, out);
}

gr_status gr_mesh_open(gr_mesh **out, const gr_comm *world, const int n[GR_AXES])
{
    static const bool data[GR_AXES] = {[GR_PIPE] = true, [GR_SEQUENCE] = true};
    gr_status         st = GR_OK;
    gr_mesh          *m = NULL;
    const int         ranks = gr_comm_size(world);
    int               others = 1, place = gr_comm_rank(world);

    GR_TRY(gr_agree(world, gr_alloc(&m, 1, sizeof *m, "mesh")));
    memcpy(m->n, n, sizeof m->n);
    for (int a = 0; a < GR_AXES; a++)
        if (a != GR_REPLICATE) others *= n[a];
    if (n[GR_REPLICATE] == 0) m->n[GR_REPLICATE] = ranks / others;
    GR_CHECK0(m->n[GR_REPLICATE] * others == ranks && ranks > 0, GR_ERR_CONFIG,
              "mesh of %d (pipe) x %d (replicate) x %d (shard) x %d (sequence) on %d ranks", n[GR_PIPE],
              m->n[GR_REPLICATE], n[GR_SHARD], n[GR_SEQUENCE], ranks);
    for (int a = GR_AXES - 1; a >= 0; a--) {
        m->at[a] = place % m->n[a];
        place /= m->n[a];
    }
    for (int a = 0; a < GR_AXES; a++) {
        bool mine[GR_AXES] = {true, true, true, true};
        mine[a] = false;
        GR_TRY(group(m, world, mine, &m->axis[a]));
    }
    GR_TRY(group(m, world, data, &m->data));
    *out = m;
    m = NULL;
out:
    gr_mesh_close(&m);
    return st;
}

void gr_mesh_close(gr_mesh **mp)
{
    if (!*mp) return;
    for (int a = 0; a < GR_AXES; a++) gr_comm_close(&(*mp)->axis[a]);
    gr_comm_close(&(*mp)->data);
    gr_free(mp);
}
