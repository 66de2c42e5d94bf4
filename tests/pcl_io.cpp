/* SPDX-License-Identifier: Apache-2.0 */
#include "pcl_io.h"

#include <cstring>
#include <string>

#include <pcl/console/print.h>
#include <pcl/io/pcd_io.h>
#include <pcl/io/ply_io.h>
#include <pcl/point_types.h>

namespace {
bool is_ply(const char *name)
{
    const std::size_t length = std::strlen(name);
    return length > 4 && std::strcmp(name + length - 4, ".ply") == 0;
}
} // namespace

extern "C" int pcl_io_save(const char *path, const char *kind, const float *xyzi, int count)
{
    pcl::PointCloud<pcl::PointXYZI> cloud;
    for (int i = 0; i < count; i++) {
        pcl::PointXYZI p;
        p.x = xyzi[4 * i], p.y = xyzi[4 * i + 1], p.z = xyzi[4 * i + 2], p.intensity = xyzi[4 * i + 3];
        cloud.push_back(p);
    }
    try {
        const std::string what = kind;
        if (what == "ascii.pcd") return pcl::PCDWriter().writeASCII(path, cloud, 9);
        if (what == "binary.pcd") return pcl::io::savePCDFileBinary(path, cloud);
        if (what == "compressed.pcd") return pcl::io::savePCDFileBinaryCompressed(path, cloud);
        if (what == "ascii.ply") return pcl::io::savePLYFileASCII(path, cloud);
        return pcl::io::savePLYFileBinary(path, cloud);
    } catch (...) {
        return -1;
    }
}

extern "C" int pcl_io_load(const char *path, float *xyzi, int room)
{
    pcl::console::setVerbosityLevel(pcl::console::L_ERROR);
    pcl::PointCloud<pcl::PointXYZI> cloud;
    try {
        if ((is_ply(path) ? pcl::io::loadPLYFile(path, cloud) : pcl::io::loadPCDFile(path, cloud)) != 0)
            return -1;
    } catch (...) {
        return -1;
    }
    for (int i = 0; i < static_cast<int>(cloud.size()) && i < room; i++) {
        const auto &p = cloud[static_cast<std::size_t>(i)];
        xyzi[4 * i] = p.x, xyzi[4 * i + 1] = p.y, xyzi[4 * i + 2] = p.z, xyzi[4 * i + 3] = p.intensity;
    }
    return static_cast<int>(cloud.size());
}
