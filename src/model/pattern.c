#include "model/pattern.h"
#include "util/mem.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

gr_status gr_pattern_parse(const char *text, int n_layer, const gr_mixer **mixer)
{
    gr_status   st = GR_OK;
    const char *p = text;
    const bool  repeat = *p == '(';
    int         n = 0;

    p += repeat;
    while (*p && *p != ')') {
        char            name[32];
        const size_t    len = strcspn(p, ",:) ");
        const gr_mixer *found = NULL;
        long            count = 1;

        snprintf(name, sizeof name, "%.*s", (int)len, p);
        found = gr_mixer_find(name);
        GR_CHECK0(found, GR_ERR_CONFIG, "pattern '%s': unknown mixer '%s'; there are: %s", text, name,
                  gr_mixer_names());
        p += len;
        if (*p == ':') {
            char *end = NULL;
            GR_CHECK0(isdigit((unsigned char)p[1]), GR_ERR_CONFIG, "pattern '%s': expected a count after '%s:'", text,
                      name);
            count = strtol(p + 1, &end, 10);
            p = end;
        }
        GR_CHECK0(count >= 1 && count <= n_layer - n, GR_ERR_CONFIG, "pattern '%s': more layers than the model's %d",
                  text, n_layer);
        while (count-- > 0) mixer[n++] = found;
        p += strspn(p, " ");
        if (*p == ',') p += 1 + strspn(p + 1, " ");
    }
    GR_CHECK0(!repeat || !strcmp(p, ")"), GR_ERR_CONFIG, "pattern '%s': expected nothing after one closing parenthesis",
              text);
    GR_CHECK0(repeat || !*p, GR_ERR_CONFIG, "pattern '%s': unexpected '%s'", text, p);
    GR_CHECK0(n > 0 && (repeat || n == n_layer), GR_ERR_CONFIG, "pattern '%s': %d layers, the model has %d", text, n,
              n_layer);
    for (int i = n; i < n_layer; i++) mixer[i] = mixer[i - n];
out:
    return st;
}

gr_status gr_pattern_text(const gr_mixer *const *mixer, int n_layer, char **text)
{
    gr_status    st = GR_OK;
    const size_t room = (size_t)n_layer * 33 + 1; /* a name and a comma per layer */
    size_t       at = 0;

    GR_TRY(gr_alloc(text, room, 1, "pattern"));
    for (int i = 0; i < n_layer; i++)
        at += (size_t)snprintf(*text + at, room - at, "%s%s", i ? "," : "", mixer[i]->def->name);
out:
    return st;
}
