/** @file mesh.h  How ranks divide the work: pipeline x replicate x shard x sequence, the last fastest.
 *
 *     rank = ((pipe * n_replicate + replicate) * n_shard + shard) * n_sequence + sequence
 *
 * Ranks that differ in `sequence` hold pieces of the same sequences, those that differ in `shard` pieces of the same
 * parameters, those that differ in `pipe` different layers. Neighbours along the fastest axes talk most, and share a
 * host when ranks are numbered host by host.
 */
#ifndef GR_COMM_MESH_H
#define GR_COMM_MESH_H
#include "comm/comm.h"

GR_C_BEGIN

typedef enum gr_axis { GR_PIPE, GR_REPLICATE, GR_SHARD, GR_SEQUENCE, GR_AXES } gr_axis;

typedef struct gr_mesh {
    int      n[GR_AXES];    /**< ranks along each axis                                                        */
    int      at[GR_AXES];   /**< this rank's place                                                            */
    gr_comm *axis[GR_AXES]; /**< the ranks that differ in this axis only; NULL where the axis has one rank     */
    gr_comm *data; /**< the ranks that see different sequences and train the same layers: replicate x shard; NULL for
                      one rank */
} gr_mesh;

/** [collective] n[GR_REPLICATE] = 0 means whatever the other axes leave. GR_ERR_CONFIG when the product is not the
 * number of ranks. */
gr_status gr_mesh_open(gr_mesh **m, const gr_comm *world, const int n[GR_AXES]);
void      gr_mesh_close(gr_mesh **m);

GR_C_END
#endif
