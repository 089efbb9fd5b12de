/* Every shape of the mesh: places are a bijection, groups hold the right ranks, and a wrong product is refused. */
/*TEST
np: 1 2 3 4 6
timeout: 30
*/
#include "comm/mesh.h"
#include "tests/check.h"

static void check_shape(const gr_comm *world, const int n[GR_AXES])
{
    gr_mesh *m = NULL;
    int      place = 0;
    int64_t  group = 1, data = 1;

    CHECK(gr_mesh_open(&m, world, n) == GR_OK, "mesh");
    if (!m) return;
    for (int a = 0; a < GR_AXES; a++) place = place * m->n[a] + m->at[a];
    CHECK(place == gr_comm_rank(world), "place %d of rank %d", place, gr_comm_rank(world));
    for (int a = 0; a < GR_AXES; a++) {
        int64_t sum = 1, where = m->at[a];
        gr_sum_i64(m->axis[a], &sum, 1);
        gr_sum_i64(m->axis[a], &where, 1);
        CHECK(sum == m->n[a] && gr_comm_rank(m->axis[a]) == m->at[a], "axis %d: %lld ranks, expected %d", a,
              (long long)sum, m->n[a]);
        CHECK(where == (int64_t)m->n[a] * (m->n[a] - 1) / 2, "axis %d: places add up to %lld", a, (long long)where);
        group *= m->n[a];
    }
    gr_sum_i64(m->data, &data, 1);
    CHECK(data == (int64_t)m->n[GR_REPLICATE] * m->n[GR_SHARD], "data: %lld ranks", (long long)data);
    CHECK(gr_comm_rank(m->data) == m->at[GR_REPLICATE] * m->n[GR_SHARD] + m->at[GR_SHARD], "data: rank %d",
          gr_comm_rank(m->data));
    CHECK(group == gr_comm_size(world), "%lld places", (long long)group);
    gr_mesh_close(&m);
}

int main(int argc, char **argv)
{
    gr_comm *world = NULL;
    gr_mesh *m = NULL;
    int      ranks;

    CHECK(gr_comm_init(&world, &argc, &argv) == GR_OK, "communicator");
    ranks = gr_comm_size(world);
    for (int p = 1; p <= ranks; p++)
        for (int s = 1; s <= ranks; s++)
            for (int q = 1; q <= ranks; q++)
                if (ranks % (p * s * q) == 0) check_shape(world, (int[GR_AXES]){p, 0, s, q});
    CHECK(gr_mesh_open(&m, world, (int[GR_AXES]){1, ranks + 1, 1, 1}) == GR_ERR_CONFIG && !m, "too many places");
    CHECK(gr_mesh_open(&m, world, (int[GR_AXES]){1, 0, ranks + 1, 1}) == GR_ERR_CONFIG && !m,
          "an axis longer than the world");
    const int failed = check_failed;
    gr_comm_finalize(&world);
    return failed | check_result();
}
